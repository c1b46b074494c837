//! Escaping for Telegram's markup: <https://core.telegram.org/bots/api#formatting-options>.

/// "In all other places characters … must be escaped with the preceding character '\'".
const MARKDOWN: &str = "_*[]()~`>#+-=|{}.!\\";

/// A value in MarkdownV2: nothing of it is markup.
pub fn escape_markdown(text: &str) -> String {
    escape(text, MARKDOWN)
}

/// A value inside `pre` and `code` of MarkdownV2, where only two characters count.
pub fn escape_code(text: &str) -> String {
    escape(text, "`\\")
}

fn escape(text: &str, special: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if special.contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// A value in Telegram's HTML.
pub fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_of_the_documented_list_is_escaped() {
        let documented = "_ * [ ] ( ) ~ ` > # + - = | { } . !";
        for special in documented.split(' ') {
            assert_eq!(escape_markdown(special), format!("\\{special}"));
        }
        assert_eq!(escape_markdown("a\\_b"), "a\\\\\\_b");
        assert_eq!(escape_markdown("Größe 5 €"), "Größe 5 €");
    }

    #[test]
    fn code_and_html_have_their_own_lists() {
        assert_eq!(escape_code("a_b `c` \\"), "a_b \\`c\\` \\\\");
        assert_eq!(escape_html("<b> & \"c\""), "&lt;b&gt; &amp; &quot;c&quot;");
    }
}
