//! Escapes for receivers that read some characters as markup, for
//! [`Templates::escape_with`](super::Templates::escape_with).
//!
//! They are for the values that a template writes; the template's own markup stands as its author
//! wrote it.

/// The characters that MarkdownV2 reserves, and the backslash that escapes them.
/// <https://core.telegram.org/bots/api#markdownv2-style>
const MARKDOWN_V2: &str = "_*[]()~`>#+-=|{}.!\\";

/// Telegram's MarkdownV2: a backslash before each reserved character. Telegram takes an escaped
/// character as itself everywhere, inside code and links too, so one escape fits all places.
#[must_use]
pub fn markdown_v2(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + text.len() / 8);
    for char in text.chars() {
        if MARKDOWN_V2.contains(char) {
            escaped.push('\\');
        }
        escaped.push(char);
    }
    escaped
}

/// HTML, in text and in quoted attributes.
#[must_use]
pub fn html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + text.len() / 8);
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The list in the Bot API's section "MarkdownV2 style".
    const RESERVED: [char; 18] = [
        '_', '*', '[', ']', '(', ')', '~', '`', '>', '#', '+', '-', '=', '|', '{', '}', '.', '!',
    ];

    #[test]
    fn markdown_v2_escapes_what_the_bot_api_reserves_and_nothing_else() {
        for code in 1..=126_u8 {
            let char = char::from(code);
            let text = char.to_string();
            let expected = if RESERVED.contains(&char) || char == '\\' {
                format!("\\{char}")
            } else {
                text.clone()
            };
            assert_eq!(markdown_v2(&text), expected, "{code}");
        }
        assert_eq!(markdown_v2("ü 🏟 „x“"), "ü 🏟 „x“");
        assert_eq!(markdown_v2("v1.0 (a_b)!"), r"v1\.0 \(a\_b\)\!");
        assert_eq!(markdown_v2(r"\*"), r"\\\*");
    }

    #[test]
    fn html_escapes_what_opens_a_tag_an_entity_or_closes_an_attribute() {
        assert_eq!(
            html("<a href=\"x\"> & 'y'"),
            "&lt;a href=&quot;x&quot;&gt; &amp; 'y'"
        );
        assert_eq!(html("ü 🏟"), "ü 🏟");
    }
}
