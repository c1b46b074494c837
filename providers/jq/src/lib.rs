//! The jq language for filters and transforms, by jaq.
//!
//! It runs in the sandbox like any stranger's component: what a program may spend is the host's
//! business, so there is no limit here. An output depends on the input alone: a program has no
//! environment, no clock and no further input.

mod library;

use std::cell::RefCell;

use hookport_sdk::{Description, Language};
use jaq_core::load::{Arena, Error as LoadError, File, Loader, span};
use jaq_core::native::{Fun, bome};
use jaq_core::{Compiler, Ctx, Error, Filter, Native, Vars, data, unwrap_valr};
use jaq_json::{Val, read};
use serde::de::IgnoredAny;

use crate::library::Library;

type Data = data::JustLut<Val>;

/// Most problems told of one program.
const PROBLEMS_MAX: usize = 5;

thread_local! {
    static LIBRARY: RefCell<Option<Library>> = const { RefCell::new(None) };
}

/// Parses the library ahead of the first call.
fn prepare() {
    LIBRARY.with_borrow_mut(|ready| *ready = Some(Library::new()));
}

/// The language.
pub struct Jq;

impl Language for Jq {
    fn describe() -> Description {
        Description::new(
            "jq",
            "Filters and transforms of JSON in the language of jq 1.7, by jaq",
        )
        .icon("filter")
        .link("https://jqlang.org/manual/")
        .setup_guide(include_str!("../setup.md"))
    }

    fn check(program: &str) -> Result<(), String> {
        compile(program).map(|_| ())
    }

    fn run(program: &str, input: &str, outputs_max: usize) -> Result<Vec<String>, String> {
        let filter = compile(program)?;
        let input = read::parse_single(input.as_bytes())
            .map_err(|error| format!("the input is not JSON: {error}"))?;
        let context = Ctx::<Data>::new(&filter.lut, Vars::new([]));
        filter
            .id
            .run((context, input))
            .map(unwrap_valr)
            .take(outputs_max)
            .map(|output| {
                let text = output.map_err(words)?.to_string();
                // jaq knows more values than JSON: bytes, NaN, keys that are no strings.
                match serde_json::from_str::<IgnoredAny>(&text) {
                    Ok(IgnoredAny) => Ok(text),
                    Err(_) => Err("an output cannot be written as JSON".to_owned()),
                }
            })
            .collect()
    }
}

fn compile(program: &str) -> Result<Filter<Data>, String> {
    let library = LIBRARY.with_borrow_mut(Option::take);
    let library = library.unwrap_or_else(Library::new);
    let functions = jaq_core::funs()
        .chain(jaq_std::funs())
        .chain(jaq_json::funs())
        .map(without_outside);
    let arena = Arena::default();
    let file = File {
        code: program,
        path: (),
    };
    let loader = Loader::new(library.used_by(program));
    let modules = loader.load(&arena, file).map_err(|errors| {
        problems(
            errors
                .into_iter()
                .flat_map(|(_, error)| load_problems(program, error)),
        )
    })?;
    Compiler::default()
        .with_funs(functions)
        .compile(modules)
        .map_err(|errors| {
            problems(errors.into_iter().flat_map(|(file, undefined)| {
                undefined.into_iter().map(move |(name, what)| {
                    let place = place(file.code, name);
                    format!("{place}: no {} `{name}`", what.as_str())
                })
            }))
        })
}

/// What `error("text")` said is text, not JSON.
fn words(error: Error<Val>) -> String {
    let text = error.to_string();
    serde_json::from_str(&text).unwrap_or(text)
}

/// Takes from a program what would make its output depend on more than its input, and what would
/// end the whole instance. The names stay, as the library's own definitions use them.
fn without_outside(function: Fun<Data>) -> Fun<Data> {
    let (name, arguments, native) = function;
    let native = match name {
        "env" | "now" | "halt" => Native::new(|(_, _)| {
            bome(Err(Error::str(
                "env, now and halt are not there: an output depends on the input alone",
            )))
        }),
        _ => native,
    };
    (name, arguments, native)
}

fn problems(found: impl Iterator<Item = String>) -> String {
    found.take(PROBLEMS_MAX).collect::<Vec<_>>().join("; ")
}

fn load_problems(program: &str, error: LoadError<&str>) -> Vec<String> {
    let quoted = |part: &str| match part.chars().next() {
        Some(_) => format!("`{}`", part.chars().take(20).collect::<String>()),
        None => "the end".to_owned(),
    };
    match error {
        LoadError::Io(modules) => modules
            .into_iter()
            .map(|(name, _)| format!("{}: there are no modules to load", place(program, name)))
            .collect(),
        LoadError::Lex(errors) => errors
            .into_iter()
            .map(|(expected, found)| {
                let (place, found) = (place(program, found), quoted(found));
                format!("{place}: expected {}, found {found}", expected.as_str())
            })
            .collect(),
        LoadError::Parse(errors) => errors
            .into_iter()
            .map(|(expected, found)| {
                let (place, found) = (place(program, found), quoted(found));
                format!("{place}: expected {}, found {found}", expected.as_str())
            })
            .collect(),
    }
}

/// Line and column of a part of the program, both from 1; the column in characters.
fn place(program: &str, part: &str) -> String {
    let before = program.get(..span(program, part).start).unwrap_or(program);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    format!("line {line}, column {column}")
}

hookport_sdk::export_language!(Jq, id: "jq");
hookport_sdk::preinitialize!(crate::prepare);

#[cfg(test)]
mod tests {
    use super::*;

    fn run(program: &str, input: &str) -> Result<Vec<String>, String> {
        Jq::run(program, input, 10)
    }

    #[test]
    fn programs_run() {
        let check = |program: &str, input: &str, expected: &[&str]| {
            let outputs = run(program, input).expect(program);
            assert_eq!(outputs, expected, "{program}");
        };
        let high = r#"{"payload":{"severity":"high"}}"#;
        check(".payload.severity == \"high\"", high, &["true"]);
        check(".[] | select(. > 1)", "[1,2,3]", &["2", "3"]);
        let dated = r#"{"b":1,"t":"1970-01-01T00:00:01Z"}"#;
        check(
            "{a: .b, at: (.t | fromdate)}",
            dated,
            &[r#"{"a":1,"at":1}"#],
        );
        check(
            "map(ascii_downcase) | join(\",\")",
            r#"["A","B"]"#,
            &["\"a,b\""],
        );
        check("test(\"^a+$\")", "\"aaa\"", &["true"]);
        check("empty", "1", &[]);
        let large = "12345678901234567890";
        check(".", large, &[large]);
    }

    #[test]
    fn outputs_are_capped_so_that_endless_ones_end() {
        assert_eq!(
            Jq::run("repeat(1)", "null", 3).map(|outputs| outputs.len()),
            Ok(3)
        );
    }

    #[test]
    fn wrong_programs_say_where() {
        for (program, place) in [
            (".a |", "line 1"),
            (
                "{a: 1",
                "line 1, column 6: expected closing brace, found the end",
            ),
            (".a\n| nosuch", "line 2, column 3: no filter `nosuch`"),
            ("$x", "line 1, column 1: no variable `$x`"),
            ("import \"m\" as m; .", "module"),
            ("\"\\q\"", "line 1"),
        ] {
            let error = Jq::check(program).expect_err(program);
            assert!(error.contains(place), "{program:?}: {error}");
        }
    }

    #[test]
    fn errors_of_a_program_are_its_own_words() {
        assert_eq!(
            run("error(\"no owner\")", "null"),
            Err("no owner".to_owned())
        );
        let error = run(".a + 1", r#"{"a":{}}"#).expect_err("a type error");
        assert!(error.contains("cannot"), "{error}");
        assert!(run("nan", "null").is_err(), "no JSON");
        assert!(run("{(1): 2}", "null").is_err(), "no JSON");
    }

    #[test]
    fn nothing_reaches_outside() {
        for program in ["$ENV", "input", "inputs"] {
            assert!(Jq::check(program).is_err(), "{program}");
        }
        for program in ["env", "now", "halt", "halt_error"] {
            let error = run(program, "null").expect_err(program);
            assert!(error.contains("not there"), "{program}: {error}");
        }
    }
}
