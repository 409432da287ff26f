//! YAML as far as it says what JSON can say: one document of maps with texts as keys, lists and scalars.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// How deep lists and maps may stand in each other.
const DEPTH_MAX: usize = 64;
/// Values of a document, those that aliases repeat counted each time: a few lines of them could make billions. A long text
/// counts as several.
const VALUES_MAX: usize = 100_000;
/// Bytes of a text that count as one.
const TEXT: usize = 64;

/// A list or a map under construction.
enum Open {
    List(Vec<Value>),
    Map(Map<String, Value>, Option<String>),
}

#[derive(Default)]
struct Loader {
    /// With the anchor that each has, or 0.
    open: Vec<(Open, usize)>,
    anchors: Vec<(usize, Value)>,
    document: Option<Value>,
    values: usize,
}

/// The value of a document.
pub(super) fn parse(text: &str) -> Result<Value> {
    let mut loader = Loader::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| Error::malformed(e.to_string()))?;
        let at = |e: Error| e.at(format!("line {}", span.start.line()));
        loader.take(event).map_err(at)?;
    }
    loader.document.ok_or_else(|| Error::malformed("there is nothing in it"))
}

impl Loader {
    fn take(&mut self, event: Event<'_>) -> Result<()> {
        match event {
            Event::SequenceStart(anchor, _) => self.begin(Open::List(Vec::new()), anchor),
            Event::MappingStart(anchor, _) => self.begin(Open::Map(Map::new(), None), anchor),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some((Open::List(list), anchor)) => self.put(Value::Array(list), anchor),
                Some((Open::Map(map, None), anchor)) => self.put(Value::Object(map), anchor),
                _ => Err(Error::malformed("a list or map ends that did not begin")),
            },
            Event::Scalar(text, style, anchor, tag) => {
                if let Some((Open::Map(map, key @ None), _)) = self.open.last_mut() {
                    if map.contains_key(text.as_ref()) {
                        return Err(Error::malformed(format!("{text:?} stands here twice")));
                    }
                    *key = Some(text.into_owned());
                    return Ok(());
                }
                let is_text = tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
                let plain = style == ScalarStyle::Plain && !is_text;
                self.put(if plain { scalar(&text) } else { Value::String(text.into_owned()) }, anchor)
            }
            Event::Alias(anchor) => {
                let found = self.anchors.iter().rev().find(|(have, _)| *have == anchor);
                let value =
                    found.map(|(_, value)| value.clone()).ok_or_else(|| Error::malformed("an alias of itself"))?;
                self.values += below(&value);
                self.put(value, 0)
            }
            Event::DocumentStart(_) if self.document.is_some() => Err(Error::malformed("a second document")),
            _ => Ok(()),
        }
    }

    fn begin(&mut self, open: Open, anchor: usize) -> Result<()> {
        if let Some((Open::Map(_, None), _)) = self.open.last() {
            return Err(Error::malformed("a key that is no text"));
        }
        if self.open.len() == DEPTH_MAX {
            return Err(Error::malformed(format!("more than {DEPTH_MAX} lists and maps in each other")));
        }
        self.open.push((open, anchor));
        Ok(())
    }

    fn put(&mut self, value: Value, anchor: usize) -> Result<()> {
        self.values += weight(&value);
        if self.values > VALUES_MAX {
            return Err(Error::malformed(format!("more than {VALUES_MAX} values")));
        }
        if anchor != 0 {
            self.anchors.push((anchor, value.clone()));
        }
        match self.open.last_mut() {
            Some((Open::List(list), _)) => list.push(value),
            Some((Open::Map(map, key), _)) => {
                let key = key.take().ok_or_else(|| Error::malformed("a key that is no text"))?;
                map.insert(key, value);
            }
            None => self.document = Some(value),
        }
        Ok(())
    }
}

/// What a value counts as, without what is in it.
fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => 1 + text.len() / TEXT,
        Value::Object(map) => 1 + map.keys().map(|key| key.len() / TEXT).sum::<usize>(),
        _ => 1,
    }
}

/// What all that is in a value counts as.
fn below(value: &Value) -> usize {
    let whole = |value: &Value| weight(value) + below(value);
    match value {
        Value::Array(list) => list.iter().map(whole).sum(),
        Value::Object(map) => map.values().map(whole).sum(),
        _ => 0,
    }
}

/// What an unquoted word is, by the core schema of YAML 1.2.
fn scalar(text: &str) -> Value {
    let number = |digits: &str, radix| i64::from_str_radix(digits, radix).ok().map(Value::from);
    let float = || {
        let is_number = text.contains(|c: char| c.is_ascii_digit())
            && text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
        if is_number { text.parse().ok().and_then(serde_json::Number::from_f64).map(Value::Number) } else { None }
    };
    let found = match text {
        "" | "~" | "null" | "Null" | "NULL" => Some(Value::Null),
        "true" | "True" | "TRUE" => Some(Value::Bool(true)),
        "false" | "False" | "FALSE" => Some(Value::Bool(false)),
        _ => match text.split_at_checked(2) {
            Some(("0x", digits)) => number(digits, 16),
            Some(("0o", digits)) => number(digits, 8),
            _ => number(text, 10).or_else(float),
        },
    };
    found.unwrap_or_else(|| Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_json_can_say_too() {
        let text = "\
# a comment
---
kind: \"vendor.com/class\"
words: [a, 'b c', \"1\", !!str 2, yes]
numbers: [1, -2, 0x1f, 0o17, 1.5, 1e3]
others: [true, False, ~, ]
nested:
- &one
  name: x
  text: |
    two
    lines
- *one
- {}
";
        let want = json!({
            "kind": "vendor.com/class", "words": ["a", "b c", "1", "2", "yes"],
            "numbers": [1, -2, 31, 15, 1.5, 1000.0], "others": [true, false, null],
            "nested": [{"name": "x", "text": "two\nlines\n"}, {"name": "x", "text": "two\nlines\n"}, {}],
        });
        assert_eq!(parse(text).unwrap(), want);
        assert_eq!(parse("{\"a\": [1, {\"b\": null}]}").unwrap(), json!({"a": [1, {"b": null}]}), "JSON is YAML");
    }

    #[test]
    fn what_is_more_than_that_is_refused() {
        let mut bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for (last, next) in ('a'..='x').zip('b'..='y') {
            let many = vec![format!("*{last}"); 8].join(",");
            bomb.extend([format!("{next}: &{next} [{many}]\n")]);
        }
        for (text, why) in [
            ("", "nothing in it"),
            ("a: 1\na: 2\n", "line 2: \"a\" stands here twice"),
            ("--- 1\n--- 2\n", "second document"),
            ("? [a]\n: b\n", "no text"),
            ("a: &x [*x]\n", "alias of itself"),
            ("a: *x\n", ""),
            ("a: [1\n", ""),
            ("a:\n\tb: 1\n", ""),
            (&"[".repeat(100), "in each other"),
            (&"[".repeat(100_000), "recursion limit"),
            (&"- ".repeat(100_000), "in each other"),
            (&bomb, "values"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{}: {error}", text.chars().take(20).collect::<String>());
        }
    }

    #[test]
    fn long_texts_count_as_often_as_they_are_repeated() {
        let document = |times: usize| format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; times].join(", "));
        assert!(parse(&document(4)).is_ok());
        assert!(parse(&document(10)).unwrap_err().to_string().contains("more than"));
    }
}
