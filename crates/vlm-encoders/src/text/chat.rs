//! Messages to the text that a model trained to chat expects.
//!
//! Models bring a Jinja template for it. It is rendered as transformers renders it (4.57,
//! `utils/chat_template_utils.py`): blocks trimmed, Python's string methods, `raise_exception`,
//! `strftime_now`, `tojson` in Python's style, and the names of the special tokens. A template
//! comes from anywhere, so its work and memory are limited.

use std::path::{Path, PathBuf};

use minijinja::value::{Kwargs, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, syntax::SyntaxConfig};
use serde::Serialize;

use super::cycles;
use super::error::{TokenizerError, one_line};
use super::files::{CONFIG, Files, TEMPLATE, TEMPLATE_JSON};
use super::settings::{ROLES, Settings, content};

/// Instructions that a template may take, or units of 64 bytes that it may make: to begin with, and
/// for each message. Published templates take a tenth of it.
const FUEL: u64 = 200_000;
const FUEL_OF_MESSAGE: u64 = 2_000;
/// The most for all messages together: some 100 MB.
const MAX_FUEL: u64 = 1_500_000;
/// Bytes of stack for each unit. The engine nests lists as deeply as a template builds them, at no
/// less than five units a level, and takes them apart by recursion.
const STACK: usize = 256;
/// Nesting, in the engine's own count, which a macro increases by ten. Published templates stay
/// below 50; the engine's own limit of 500 can overflow the stack of a test thread.
const DEPTH: usize = 150;

/// One message of a chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who says it: `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// What is said.
    pub content: Content,
}

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Text alone, which every template knows.
    Text(String),
    /// Pictures and texts in their order, which templates of vision models know.
    Parts(Vec<Part>),
}

/// A piece of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// A picture; the template puts the model's mark for one here.
    Image,
    /// A text.
    Text {
        /// The text.
        text: String,
    },
}

impl Message {
    /// A message of text alone.
    pub fn text(role: &str, text: impl Into<String>) -> Self {
        Self { role: role.to_owned(), content: Content::Text(text.into()) }
    }

    /// A message of a picture and a text about it.
    pub fn image_and_text(role: &str, text: impl Into<String>) -> Self {
        let parts = vec![Part::Image, Part::Text { text: text.into() }];
        Self { role: role.to_owned(), content: Content::Parts(parts) }
    }
}

impl Message {
    /// What its length allows a template to take.
    fn fuel(&self) -> u64 {
        let part = |part: &Part| match part {
            Part::Image => 0,
            Part::Text { text } => text.len(),
        };
        let length = match &self.content {
            Content::Text(text) => text.len(),
            Content::Parts(parts) => parts.iter().map(part).sum(),
        };
        FUEL_OF_MESSAGE + length as u64 / 2
    }

    /// As templates see it.
    fn value(&self) -> Value {
        let content = match &self.content {
            Content::Text(text) => Value::from(text),
            Content::Parts(parts) => parts.iter().map(Part::value).collect(),
        };
        Value::from_pairs([("role", Value::from(&self.role)), ("content", content)])
    }
}

impl Part {
    fn value(&self) -> Value {
        match self {
            Self::Image => Value::from_pairs([("type", "image")]),
            Self::Text { text } => Value::from_pairs([("type", "text"), ("text", text)]),
        }
    }
}

/// A tokenizer's template.
#[derive(Debug, Clone)]
pub(super) struct Template {
    source: String,
    /// Where it stands.
    file: PathBuf,
    /// Special tokens by their role.
    tokens: Vec<(String, String)>,
}

impl Template {
    /// Finds the template in `chat_template.jinja`, `chat_template.json` or
    /// `tokenizer_config.json`; of several named ones the one called `default`.
    ///
    /// # Errors
    /// [`TokenizerError::File`]: a file is no text, no JSON, or holds no template where it should.
    pub(super) fn find(
        files: &Files,
        settings: &Settings,
        dir: &Path,
    ) -> Result<Option<Self>, TokenizerError> {
        let of_role = |role: &&str| Some((role.to_string(), settings.token(role)?));
        let more = settings.get("extra_special_tokens").and_then(serde_json::Value::as_object);
        let more = more.into_iter().flatten().map(|(role, token)| (role.clone(), token));
        let tokens = ROLES.iter().filter_map(of_role).chain(more);
        let tokens =
            tokens.filter_map(|(role, token)| Some((role, content(token)?.to_owned()))).collect();
        let fail =
            |name: &str, detail: String| TokenizerError::File { file: dir.join(name), detail };
        let found = if let Some(bytes) = files.get(TEMPLATE) {
            let text = std::str::from_utf8(bytes).map_err(|e| fail(TEMPLATE, one_line(e)))?;
            Some((TEMPLATE, text.to_owned()))
        } else if let Some(bytes) = files.get(TEMPLATE_JSON) {
            let value: serde_json::Value = serde_json::from_slice(bytes)
                .map_err(|e| fail(TEMPLATE_JSON, format!("not valid JSON ({})", one_line(e))))?;
            let text = value.get("chat_template").and_then(default_of);
            let text = text.ok_or_else(|| fail(TEMPLATE_JSON, "has no `chat_template`".into()))?;
            Some((TEMPLATE_JSON, text))
        } else {
            settings.get("chat_template").and_then(default_of).map(|text| (CONFIG, text))
        };
        Ok(found.map(|(name, source)| Self { source, file: dir.join(name), tokens }))
    }

    /// # Errors
    /// [`TokenizerError::Template`].
    pub(super) fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, TokenizerError> {
        let fail =
            |e: Error| TokenizerError::Template { file: self.file.clone(), detail: reason(&e) };
        let mut context: Vec<(&str, Value)> =
            self.tokens.iter().map(|(role, token)| (role.as_str(), Value::from(token))).collect();
        context.push(("messages", messages.iter().map(Message::value).collect()));
        context.push(("add_generation_prompt", Value::from(add_generation_prompt)));
        // transformers passes these too, and templates compare them with none.
        context.push(("tools", Value::from(())));
        context.push(("documents", Value::from(())));
        let context = Value::from_pairs(context);
        let source = without_generation_marks(&self.source);
        let fuel = (FUEL + messages.iter().map(Message::fuel).sum::<u64>()).min(MAX_FUEL);
        let work = || environment(fuel).render_str(&source, context).map_err(fail);
        let tied = cycles::check(&source, syntax());
        let stack = (4 << 20) + fuel as usize * STACK;
        let stopped = |detail: &str| TokenizerError::Template {
            file: self.file.clone(),
            detail: detail.to_owned(),
        };
        tied.map_err(|detail| stopped(&detail))?;
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(stack).spawn_scoped(scope, work);
            let thread = thread.map_err(|e| stopped(&format!("no thread for it: {e}")))?;
            thread.join().unwrap_or_else(|_| Err(stopped("the template engine panicked")))
        })
    }
}

/// A template, or the one called `default` of a list of `{name, template}` or of an object.
fn default_of(value: &serde_json::Value) -> Option<String> {
    let named = |entry: &&serde_json::Value| {
        entry.get("name").and_then(serde_json::Value::as_str) == Some("default")
    };
    let one = match value {
        serde_json::Value::Array(list) => list.iter().find(named)?.get("template")?,
        serde_json::Value::Object(map) => map.get("default")?,
        other => other,
    };
    one.as_str().map(str::to_owned)
}

fn syntax() -> SyntaxConfig {
    // Only contradictory delimiters fail.
    SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().unwrap_or_default()
}

fn environment(fuel: u64) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_syntax(syntax());
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(fuel));
    environment.set_recursion_limit(DEPTH);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    // Indents lists in lists without counting what it writes.
    environment.remove_filter("pprint");
    environment.add_filter("tojson", to_json);
    environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: &str| -> Result<String, Error> {
        jiff::fmt::strtime::format(format, &jiff::ZonedDateTime::now())
            .map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()))
    });
    environment
}

/// Python's `json.dumps(…, ensure_ascii=False)`, without the escapes for web pages.
fn to_json(state: &State, value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // What transformers always does.
    options.get::<Option<bool>>("ensure_ascii")?;
    options.assert_all_used()?;
    let fail = |e: serde_json::Error| {
        Error::new(ErrorKind::InvalidOperation, format!("cannot write JSON: {e}"))
    };
    let mut out = Limited { bytes: Vec::new() };
    match indent {
        Some(indent) => {
            let indent = " ".repeat(indent.min(16));
            let style = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            let mut writer = serde_json::Serializer::with_formatter(&mut out, style);
            value.serialize(&mut writer).map_err(fail)?;
        }
        None => {
            let mut writer = serde_json::Serializer::with_formatter(&mut out, Spaced);
            value.serialize(&mut writer).map_err(fail)?;
        }
    }
    state.consume_fuel(out.bytes.len() as u64 / 64)?;
    String::from_utf8(out.bytes).map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()))
}

/// JSON as it is written, up to 16 MiB.
struct Limited {
    bytes: Vec<u8>,
}

impl std::io::Write for Limited {
    fn write(&mut self, more: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + more.len() > 16 << 20 {
            return Err(std::io::Error::other("more than 16 MiB"));
        }
        self.bytes.extend_from_slice(more);
        Ok(more.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A space behind each comma and colon.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

/// Turns transformers' own blocks around the answer, which only mark it for training, into blocks
/// that the engine knows.
fn without_generation_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let (before, tag) = (&rest[..start], &rest[start..start + length]);
        let word = tag[2..].trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        out.push_str(before);
        match word {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        rest = &rest[start + length..];
    }
    out.push_str(rest);
    out
}

/// The message of an error and of those behind it, in one line.
fn reason(error: &Error) -> String {
    let mut text = one_line(error);
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {}", one_line(cause));
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, messages: &[Message]) -> Result<String, String> {
        let tokens = vec![("bos_token".to_owned(), "<s>".to_owned())];
        let template = Template { source: source.into(), file: "t.jinja".into(), tokens };
        template.render(messages, true).map_err(|e| e.to_string())
    }

    fn chat() -> Vec<Message> {
        vec![Message::text("user", " <Hi> & \"ho\" "), Message::image_and_text("user", "what?")]
    }

    #[test]
    fn python_speaks() {
        let cases = [
            ("{{ bos_token }}{{ messages[0].content.strip() }}", "<s><Hi> & \"ho\""),
            ("{{ messages[0]|tojson }}", r#"{"role": "user", "content": " <Hi> & \"ho\" "}"#),
            (
                "{{ messages[1].content|tojson }}",
                r#"[{"type": "image"}, {"type": "text", "text": "what?"}]"#,
            ),
            ("{{ [1, 'é']|tojson(indent=2) }}", "[\n  1,\n  \"é\"\n]"),
            (
                "{% for m in messages %}\n  {% if loop.last %}\nx\n  {% break %}\n  {% endif %}\n{% endfor %}\ny\n",
                "x\ny",
            ),
            ("{%- generation %}a{%- endgeneration -%} b", "ab"),
            ("{{ 'a</think>b'.split('</think>')[-1] }}{{ messages[1:]|length }}", "b1"),
            (
                "{{ messages[1].content is string }}{{ messages[1].content is iterable }}",
                "FalseTrue",
            ),
            (
                "{{ tools is none }}{{ nothing is defined }}{{ add_generation_prompt }}",
                "TrueFalseTrue",
            ),
            (
                "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
                "2",
            ),
        ];
        for (source, expected) in cases {
            assert_eq!(render(source, &chat()).as_deref(), Ok(expected), "{source}");
        }
        let year = render("{{ strftime_now('%Y') }}", &[]).unwrap();
        assert!(year.len() == 4 && year.as_str() >= "2025", "{year}");
    }

    #[test]
    fn what_fails_is_one_line_with_the_file() {
        let deep = format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000));
        for (source, words) in [
            ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
            ("{% for m in messages %}", "unexpected end of input"),
            ("{{ messages|nothing }}", "unknown filter"),
            ("{{ strftime_now('%') }}", "t.jinja"),
            ("{{ [1]|tojson(colour=1) }}", "colour"),
            (&deep, "recursion"),
        ] {
            let message = render(source, &chat()).unwrap_err();
            assert!(message.starts_with("t.jinja: the chat template fails ("), "{message}");
            assert!(message.contains(words) && !message.contains('\n'), "{source}: {message}");
        }
    }

    #[test]
    fn hostile_templates_stop() {
        let began = std::time::Instant::now();
        for source in [
            "{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
            "{{ 'x' * 99999999999 }}",
            "{{ '%999999999999d'|format(1) }}",
            "{{ 'x'|indent(99999999999, true) }}",
            "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s|tojson }}",
        ] {
            assert!(render(source, &chat()).is_err(), "{source}");
        }
        // Lists in lists, as deep as the fuel goes, with all that walks them.
        let long = vec![Message::text("user", "x".repeat(5_000_000))];
        let deep = "{% set ns = namespace(s=[], t=[]) %}{% for i in range(90000) %}{% for j in range(5) %}{% set ns.s = [ns.s] %}{% endfor %}{% endfor %}";
        assert!(render(deep, &long).is_err());
        let deep = deep.replace("90000", "7000");
        for use_of in [
            "{{ ns.s }}",
            "{{ ns.s|tojson }}",
            "{{ ns.s == [ns.s] }}",
            "{{ ns.s|string|length }}",
            "{{ [ns.s, [ns.s]]|sort|length }}",
            "{{ {ns.s: 1}|length }}",
            "{{ [ns.s]|unique|list|length }}",
            "{{ ns.s in [1, [ns.s]] }}",
            "{{ ns.s|tojson(indent=4) }}",
        ] {
            // Whatever comes of it, the program goes on.
            let _ = render(&format!("{deep}{use_of}"), &long);
        }
        assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
    }
}
