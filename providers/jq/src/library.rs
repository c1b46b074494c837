//! The definitions that programs can use (`map`, `select`, …), and which of them one program needs.
//!
//! Compiling all of them takes twenty times as long as compiling and running an ordinary filter,
//! so a program is compiled with those that it can reach. What looks like a mention counts as
//! one: too much is kept rather than too little.

use std::collections::{HashMap, HashSet};

use jaq_core::load::parse::Def;

/// The library, parsed.
pub struct Library {
    definitions: Vec<Def<&'static str>>,
    /// For each name, the places of all definitions that it leads to, its own included.
    reach: HashMap<&'static str, Vec<usize>>,
}

impl Library {
    /// Parses it.
    pub fn new() -> Self {
        let definitions: Vec<_> = jaq_core::defs()
            .chain(jaq_std::defs())
            .chain(jaq_json::defs())
            .collect();
        // The names that a definition mentions are in what it prints as.
        let printed: Vec<String> = definitions.iter().map(|one| format!("{one:?}")).collect();
        let mentioned: Vec<HashSet<&str>> = printed.iter().map(|text| words(text)).collect();
        let reach = definitions
            .iter()
            .map(|one| (one.name, reach(one.name, &definitions, &mentioned)))
            .collect();
        Self { definitions, reach }
    }

    /// What `program` can reach, in the library's order, in which later ones hide earlier ones.
    pub fn used_by(self, program: &str) -> impl Iterator<Item = Def<&'static str>> {
        let mut used = vec![false; self.definitions.len()];
        for name in words(program) {
            for index in self.reach.get(name).into_iter().flatten() {
                used[*index] = true;
            }
        }
        let definitions = self.definitions.into_iter().zip(used);
        definitions.filter_map(|(definition, used)| used.then_some(definition))
    }
}

fn reach(name: &str, definitions: &[Def<&str>], mentioned: &[HashSet<&str>]) -> Vec<usize> {
    let mut found: Vec<usize> = Vec::new();
    let named = |name: &str| {
        let all = definitions.iter().enumerate();
        all.filter(|(_, one)| one.name == name)
            .map(|(index, _)| index)
            .collect::<Vec<_>>()
    };
    let mut next = named(name);
    while let Some(index) = next.pop() {
        if found.contains(&index) {
            continue;
        }
        found.push(index);
        for name in &mentioned[index] {
            next.extend(named(name));
        }
    }
    found
}

/// What can be names.
fn words(text: &str) -> HashSet<&str> {
    text.split(|char: char| !char.is_alphanumeric() && char != '_' && char != '@' && char != '!')
        .filter(|word| !word.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(program: &str) -> Vec<&'static str> {
        Library::new()
            .used_by(program)
            .map(|one| one.name)
            .collect()
    }

    #[test]
    fn a_program_is_compiled_with_what_it_reaches() {
        let plain = names(".payload.n > 3");
        let mapping = names("map(select(.a)) | to_entries");
        assert!(mapping.contains(&"map") && mapping.contains(&"to_entries"));
        assert!(!plain.contains(&"map"), "{plain:?}");
        let all = Library::new().definitions.len();
        assert!(
            plain.len() * 4 < all && mapping.len() < all,
            "{} of {all}",
            plain.len()
        );
    }

    #[test]
    fn operators_and_syntax_need_no_definition() {
        for program in [
            ".. | numbers",
            ".a? // \"b\"",
            ".a[1:2] |= map(. + 1) | .b += 1 | del(.c)",
            "reduce .[] as [$a, {b: $c}] (0; . + $a) | -.",
            "foreach .[] as $x (0; . + $x; [., $x])",
            "label $out | if . > 3 and . != 4 then break $out elif . then 1 else 2 end",
            "try error(\"x\") catch .",
            "@base64 \"a\\(.b)\" | @json",
            "def f(g): g | g; f(.a) | {a, \"b\": 1, (.c): 2}",
            "[limit(3; repeat(1))] | any and all",
        ] {
            assert_eq!(crate::compile(program).err(), None, "{program}");
        }
    }

    #[test]
    fn every_name_of_the_library_compiles_by_itself() {
        for definition in &Library::new().definitions {
            let arguments = vec!["."; definition.args.len()].join("; ");
            let program = match definition.args.len() {
                0 => definition.name.to_owned(),
                _ => format!("{}({arguments})", definition.name),
            };
            assert_eq!(crate::compile(&program).err(), None, "{program}");
        }
    }
}
