//! The JavaScript engine: a realm with the prelude, and the loop that answers its requests.
//!
//! [`prepare`] builds the realm and keeps it; where the component is pre-initialised at build time,
//! a call finds it ready. What is kept holds no time, no randomness and nothing of any event.

use std::cell::RefCell;

use boa_engine::object::builtins::JsFunction;
use boa_engine::optimizer::OptimizerOptions;
use boa_engine::{
    Context, JsError, JsNativeError, JsObject, JsResult, JsValue, NativeFunction, Source, js_string,
};
use hookport_sdk::Level;
use hookport_sdk::serde_json::{self, Value};
use hookport_sdk::template::Templates;

use crate::FetchRequest;

const PRELUDE: &str = include_str!("prelude.js");
/// Longest error text kept, in characters.
const MESSAGE_CHARS_MAX: usize = 2_000;

thread_local! {
    static READY: RefCell<Option<Realm>> = const { RefCell::new(None) };
    static REQUESTS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    static LOG: RefCell<Vec<(Level, String)>> = const { RefCell::new(Vec::new()) };
    static TEMPLATES: RefCell<Option<Templates>> = const { RefCell::new(None) };
    static LABELS: RefCell<Vec<(String, String)>> = const { RefCell::new(Vec::new()) };
    static FAILURE: RefCell<Option<String>> = const { RefCell::new(None) };
}

type Native = fn(&JsValue, &[JsValue], &mut Context) -> JsResult<JsValue>;

struct Realm {
    context: Context,
    prelude: JsObject,
}

/// Run once ahead of the first call, so that what the engine sets up when it is first used is
/// there: of the language, and of the prelude.
const WARM_UP: &str = r#"
globalThis.deliver = async function (event, ctx) {
  const { a: { b }, ...rest } = event.payload;
  const list = [...event.payload.c].map((x) => x + 1).filter(Boolean);
  for (const [key, value] of Object.entries(rest)) list.push(`${key}: ${value}`);
  try { throw new RetryError("", { afterMs: 1 }); } catch (error) { list.push(error.message); }
  await Promise.all([Promise.resolve(JSON.parse(JSON.stringify({ b })))]);
  return { externalId: list.join(), summary: String(new Headers({ a: "b" }).get("a") ?? /a/.test("a")) };
};
"#;

/// Builds the realm ahead of the first call.
pub fn prepare() {
    let warmed = Realm::new().and_then(|mut realm| {
        realm.context.eval(Source::from_bytes(WARM_UP))?;
        let input = serde_json::json!({"event": {"payload": {"a": {"b": 1}, "c": [1], "d": ""}}, "ctx": {}});
        realm.carry_out(&input, |_| Err(hookport_sdk::HttpError::Timeout))?;
        realm.call("forget", &[])?;
        Ok(realm)
    });
    if let Ok(realm) = warmed {
        // What setting up has left behind would be collected in the middle of every call.
        boa_engine::gc::force_collect();
        READY.with_borrow_mut(|ready| *ready = Some(realm));
    }
}

/// What the script came to.
#[derive(Debug)]
pub enum Outcome {
    /// Its receipt.
    Returned(Value),
    /// What it threw, with line and column, and what it advises.
    Thrown { message: String, details: Value },
    /// It is no script that could deliver anything.
    Wrong(String),
}

/// An engine for one call.
pub struct Engine(Result<Realm, String>);

impl Engine {
    /// The one that was built ahead, or a new one.
    pub fn take(templates: Templates, labels: Vec<(String, String)>) -> Self {
        LABELS.with_borrow_mut(|slot| *slot = labels);
        TEMPLATES.with_borrow_mut(|slot| *slot = Some(templates));
        REQUESTS.with_borrow_mut(Vec::clear);
        LOG.with_borrow_mut(Vec::clear);
        FAILURE.with_borrow_mut(|slot| *slot = None);
        let ready = READY.with_borrow_mut(Option::take);
        Self(match ready {
            Some(realm) => Ok(realm),
            None => Realm::new().map_err(|error| error.to_string()),
        })
    }

    /// Runs `deliver` of the script, answering its requests through `send`, until it has returned
    /// or thrown.
    pub fn run(
        self,
        code: &str,
        input: &Value,
        send: impl Fn(FetchRequest) -> Result<hookport_sdk::Response, hookport_sdk::HttpError>,
    ) -> Outcome {
        let mut realm = match self.0 {
            Ok(realm) => realm,
            Err(error) => return Outcome::Wrong(format!("the engine cannot be set up: {error}")),
        };
        let source = Source::from_bytes(code.as_bytes()).with_path(std::path::Path::new("script"));
        if let Err(error) = realm.context.eval(source) {
            return Outcome::Wrong(format!("config.code: {}", cut(&error.to_string())));
        }
        let outcome = match realm.carry_out(input, send) {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Thrown {
                message: cut(&error.to_string()),
                details: Value::Null,
            },
        };
        // The instance ends with the call: tidying up its heap would be a walk for nothing.
        if cfg!(target_family = "wasm") {
            std::mem::forget(realm);
        }
        outcome
    }
}

impl Realm {
    fn new() -> JsResult<Self> {
        let mut context = Context::builder().build()?;
        // A script runs once: what the optimiser would save is less than it takes.
        context.set_optimizer_options(OptimizerOptions::empty());
        let natives = JsObject::with_object_proto(context.intrinsics());
        let functions: [(&str, Native); 4] = [
            ("send", send),
            ("log", log),
            ("render", render),
            ("failed", failed),
        ];
        for (name, function) in functions {
            let function = NativeFunction::from_fn_ptr(function).to_js_function(context.realm());
            natives.set(js_string!(name), function, true, &mut context)?;
        }
        let factory = context.eval(Source::from_bytes(PRELUDE.as_bytes()))?;
        let factory = callable(&factory)?;
        let global: JsValue = context.global_object().into();
        let prelude = factory.call(
            &JsValue::undefined(),
            &[global, natives.into()],
            &mut context,
        )?;
        let prelude = prelude.as_object().ok_or_else(|| broken("the prelude"))?;
        Ok(Self { context, prelude })
    }

    fn call(&mut self, name: &str, arguments: &[JsValue]) -> JsResult<JsValue> {
        let function = self.prelude.get(js_string!(name), &mut self.context)?;
        callable(&function)?.call(&JsValue::undefined(), arguments, &mut self.context)
    }

    fn carry_out(
        &mut self,
        input: &Value,
        send: impl Fn(FetchRequest) -> Result<hookport_sdk::Response, hookport_sdk::HttpError>,
    ) -> JsResult<Outcome> {
        // Boa's JSON.parse compiles its text as a script.
        let input = JsValue::from_json(input, &mut self.context)?;
        self.call("start", &[input])?;
        loop {
            self.context.run_jobs()?;
            if let Some(outcome) = self.outcome()? {
                return Ok(outcome);
            }
            let requests = REQUESTS.with_borrow_mut(std::mem::take);
            if requests.is_empty() {
                return Ok(Outcome::Thrown {
                    message:
                        "the script waits for something that never comes: only fetch can be awaited"
                            .to_owned(),
                    details: Value::Null,
                });
            }
            for request in requests {
                let request: FetchRequest = serde_json::from_str(&request)
                    .map_err(|error| JsNativeError::typ().with_message(error.to_string()))?;
                let id = request.id;
                let answer = crate::answer(id, send(request));
                let answer = JsValue::from_json(&answer, &mut self.context)?;
                self.call("settle", &[answer])?;
            }
        }
    }

    fn outcome(&mut self) -> JsResult<Option<Outcome>> {
        let value = self.call("outcome", &[])?.to_json(&mut self.context)?;
        let value = value.unwrap_or_default();
        if value.is_null() {
            return Ok(None);
        }
        if value["missing"] == true {
            return Ok(Some(Outcome::Wrong(
                "config.code: define a function deliver(event, ctx)".to_owned(),
            )));
        }
        if let Some(kind) = value["wrong"].as_str() {
            return Ok(Some(Outcome::Wrong(format!(
                "config.code: deliver returned a {kind}; return nothing or {{externalId, summary}}"
            ))));
        }
        if value["failed"] != true {
            return Ok(Some(Outcome::Returned(value)));
        }
        // The engine's own text has the place where it was thrown.
        let placed = FAILURE.with_borrow_mut(Option::take);
        let said = value["message"].as_str().unwrap_or_default().to_owned();
        Ok(Some(Outcome::Thrown {
            message: cut(&placed.unwrap_or(said)),
            details: value,
        }))
    }
}

fn callable(value: &JsValue) -> JsResult<JsFunction> {
    let object = value.as_object();
    object
        .and_then(JsFunction::from_object)
        .ok_or_else(|| broken("a function"))
}

fn broken(what: &str) -> JsError {
    JsNativeError::typ()
        .with_message(format!("{what} is not there"))
        .into()
}

fn text(arguments: &[JsValue], index: usize, context: &mut Context) -> JsResult<String> {
    let value = arguments.get(index).cloned().unwrap_or_default();
    Ok(value.to_string(context)?.to_std_string_escaped())
}

fn send(_: &JsValue, arguments: &[JsValue], context: &mut Context) -> JsResult<JsValue> {
    let request = text(arguments, 0, context)?;
    REQUESTS.with_borrow_mut(|requests| requests.push(request));
    Ok(JsValue::undefined())
}

fn log(_: &JsValue, arguments: &[JsValue], context: &mut Context) -> JsResult<JsValue> {
    let level = match text(arguments, 0, context)?.as_str() {
        "debug" => Level::Debug,
        "warn" => Level::Warn,
        "error" => Level::Error,
        _ => Level::Info,
    };
    let line = text(arguments, 1, context)?;
    let line = LABELS.with_borrow(|labels| {
        let hide = |line: String, (mark, label): &(String, String)| line.replace(mark, label);
        labels.iter().fold(line, hide)
    });
    keep(level, line);
    Ok(JsValue::undefined())
}

fn render(_: &JsValue, arguments: &[JsValue], context: &mut Context) -> JsResult<JsValue> {
    let template = text(arguments, 0, context)?;
    let variables = text(arguments, 1, context)?;
    let variables: Value = serde_json::from_str(&variables).unwrap_or_default();
    let rendered = TEMPLATES.with_borrow(|templates| {
        let templates = templates.as_ref().ok_or_else(|| broken("the event"))?;
        templates
            .text_with("ctx.render", &template, &variables)
            .map_err(|error| JsNativeError::error().with_message(error.message).into())
    });
    rendered.map(|text| js_string!(text).into())
}

fn failed(_: &JsValue, arguments: &[JsValue], _: &mut Context) -> JsResult<JsValue> {
    let thrown = arguments.first().cloned().unwrap_or_default();
    let is_error = thrown.as_object().is_some();
    if is_error {
        let placed = place(&JsError::from_opaque(thrown).to_string());
        FAILURE.with_borrow_mut(|failure| *failure = Some(placed));
    }
    Ok(JsValue::undefined())
}

/// The engine's words for an error, with the places in the script and none of the prelude's.
fn place(text: &str) -> String {
    let mut lines = text.lines();
    let message = lines.next().unwrap_or_default();
    let message = message.split(" (unknown at ").next().unwrap_or(message);
    let frames: Vec<&str> = lines
        .map(str::trim)
        .filter(|frame| frame.contains("(script:"))
        .collect();
    match frames.as_slice() {
        [] => message.to_owned(),
        frames => format!("{message} {}", frames.join(", ")),
    }
}

/// At once, so that a script that is ended in the middle has not spoken in vain.
#[cfg(target_family = "wasm")]
fn keep(level: Level, line: String) {
    use hookport_sdk::bindings::hookport::provider::log;
    let level = match level {
        Level::Debug => log::Level::Debug,
        Level::Info => log::Level::Info,
        Level::Warn => log::Level::Warn,
        Level::Error => log::Level::Error,
    };
    log::write(level, &line);
}

#[cfg(not(target_family = "wasm"))]
fn keep(level: Level, line: String) {
    LOG.with_borrow_mut(|log| log.push((level, line)));
}

/// What the script wrote to its console, where that is not told at once.
pub fn take_log() -> Vec<(Level, String)> {
    LOG.with_borrow_mut(std::mem::take)
}

fn cut(text: &str) -> String {
    text.chars().take(MESSAGE_CHARS_MAX).collect()
}
