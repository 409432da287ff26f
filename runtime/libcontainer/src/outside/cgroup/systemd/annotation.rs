//! Properties of the unit that the user gives as annotations `org.systemd.property.NAME`, in GVariant's text format.
//! <https://docs.gtk.org/glib/gvariant-text-format.html>

use super::wire::Value;
use crate::error::{Error, Result};
use std::collections::BTreeMap;

const PREFIX: &str = "org.systemd.property.";
/// Where the container is and who is in it is not the bundle's to say: processes of the host would be killed with it, and
/// init would live outside of the cgroup that its limits are on.
const OURS: [&str; 6] = ["PIDs", "PIDFDs", "Slice", "Delegate", "DelegateControllers", "DelegateSubgroup"];
/// Arrays in arrays; nothing that systemd takes is deeper.
const MAX_DEPTH: usize = 8;

/// The properties that the annotations ask for.
pub(super) fn properties(annotations: &BTreeMap<String, String>) -> Result<Vec<(String, Value)>> {
    let asked = annotations.iter().filter_map(|(key, text)| Some((key, key.strip_prefix(PREFIX)?, text)));
    asked
        .map(|(key, name, text)| {
            let field = || format!("annotations[{key:?}]");
            if name.len() < 3 || !name.bytes().all(|it| it.is_ascii_alphabetic()) {
                return Err(Error::invalid(
                    field(),
                    "name incorrect: a property's name has only letters, three at least",
                ));
            }
            if OURS.contains(&name) {
                return Err(Error::invalid(field(), "this property is the runtime's own: it cannot be given"));
            }
            let value = parse(text)
                .ok_or_else(|| Error::invalid(field(), format!("value parse error: {text:?} is no GVariant text")))?;
            // Documented in seconds, taken in microseconds.
            match name.strip_suffix("Sec").filter(|it| it.ends_with(|last: char| last.is_ascii_lowercase())) {
                None => Ok((name.to_owned(), value)),
                Some(base) => microseconds(&value)
                    .map(|value| (format!("{base}USec"), value))
                    .ok_or_else(|| Error::invalid(field(), format!("value parse error: {text:?} is not a number"))),
            }
        })
        .collect()
}

fn microseconds(value: &Value) -> Option<Value> {
    let seconds = match *value {
        Value::Byte(it) => u64::from(it),
        Value::U16(it) => u64::from(it),
        Value::U32(it) => u64::from(it),
        Value::U64(it) => it,
        Value::I16(it) => u64::try_from(it).ok()?,
        Value::I32(it) => u64::try_from(it).ok()?,
        Value::I64(it) => u64::try_from(it).ok()?,
        Value::F64(it) if it >= 0.0 => return Some(Value::U64((it * 1e6) as u64)),
        _ => return None,
    };
    seconds.checked_mul(1_000_000).map(Value::U64)
}

fn parse(text: &str) -> Option<Value> {
    let mut parser = Parser { rest: text, depth: 0 };
    let value = parser.value("")?;
    parser.rest.trim_start().is_empty().then_some(value)
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn eat(&mut self, mark: char) -> bool {
        self.rest = self.rest.trim_start();
        let rest = self.rest.strip_prefix(mark);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn word(&mut self) -> &'a str {
        self.rest = self.rest.trim_start();
        let end = self.rest.find(|it: char| !it.is_ascii_alphanumeric() && !"+-._".contains(it));
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        word
    }

    /// A value of that type; of the type that its text suggests where none is known.
    fn value(&mut self, kind: &str) -> Option<Value> {
        if self.eat('@') {
            let end = self.rest.find(char::is_whitespace)?;
            let (signature, rest) = self.rest.split_at(end);
            self.rest = rest;
            return self.value(signature);
        }
        match self.rest.trim_start().chars().next()? {
            '\'' | '"' => self.string().and_then(|text| match kind {
                "" | "s" => Some(Value::Str(text)),
                "o" => Some(Value::Path(text)),
                "g" => Some(Value::Signature(text)),
                _ => None,
            }),
            '[' => self.nested(|it| it.array(kind)),
            '(' => self.nested(|it| it.tuple(kind)),
            '<' => self.nested(|it| {
                it.eat('<');
                let value = it.value("")?;
                it.eat('>').then(|| Value::Variant(Box::new(value)))
            }),
            _ => self.plain(kind),
        }
    }

    fn nested(&mut self, inside: impl FnOnce(&mut Self) -> Option<Value>) -> Option<Value> {
        self.depth += 1;
        let value = if self.depth > MAX_DEPTH { None } else { inside(self) };
        self.depth -= 1;
        value
    }

    fn plain(&mut self, kind: &str) -> Option<Value> {
        let word = self.word();
        let named = match word {
            "true" | "false" => return matches!(kind, "" | "b").then_some(Value::Bool(word == "true")),
            "boolean" => "b",
            "byte" => "y",
            "int16" => "n",
            "uint16" => "q",
            "int32" => "i",
            "uint32" => "u",
            "int64" => "x",
            "uint64" => "t",
            "double" => "d",
            "string" => "s",
            "objectpath" => "o",
            "signature" => "g",
            number => return parse_number(number, kind),
        };
        self.value(named)
    }

    fn string(&mut self) -> Option<String> {
        self.rest = self.rest.trim_start();
        let quote = self.rest.chars().next()?;
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        loop {
            match chars.next()? {
                (at, it) if it == quote => {
                    self.rest = self.rest.get(at + 1..)?;
                    // A string of the bus ends with a zero.
                    return (!text.contains('\0')).then_some(text);
                }
                (_, '\\') => text.push(match chars.next()?.1 {
                    'n' => '\n',
                    't' => '\t',
                    other => other,
                }),
                (_, other) => text.push(other),
            }
        }
    }

    fn array(&mut self, kind: &str) -> Option<Value> {
        let mut element = match kind {
            "" => String::new(),
            kind => kind.strip_prefix('a')?.to_owned(),
        };
        let mut values = Vec::new();
        self.eat('[');
        while !self.eat(']') {
            if !values.is_empty() && !self.eat(',') {
                return None;
            }
            let value = self.value(&element)?;
            let signature = value.signature();
            if element.is_empty() {
                element = signature;
            } else if element != signature {
                return None;
            }
            values.push(value);
        }
        // An empty one tells nothing of its type.
        (!element.is_empty()).then_some(Value::Array(element, values))
    }

    fn tuple(&mut self, kind: &str) -> Option<Value> {
        let mut fields = Vec::new();
        self.eat('(');
        while !self.eat(')') {
            if !fields.is_empty() && !self.eat(',') {
                return None;
            }
            // The last may be followed by a comma: `(1,)`.
            if self.eat(')') {
                break;
            }
            // Only strings and numbers stand in the tuples that systemd takes: their type is theirs, or named.
            let known = kind.strip_prefix('(').and_then(|it| it.get(fields.len()..=fields.len()));
            fields.push(self.value(known.filter(|it| *it != ")").unwrap_or_default())?);
        }
        let value = Value::Struct(fields);
        (kind.is_empty() || value.signature() == kind).then_some(value)
    }
}

fn parse_number(word: &str, kind: &str) -> Option<Value> {
    let (negative, digits) = word.strip_prefix('-').map_or((false, word), |it| (true, it));
    let digits = digits.strip_prefix('+').unwrap_or(digits);
    let hex = digits.strip_prefix("0x");
    if kind == "d" || (kind.is_empty() && hex.is_none() && digits.contains(['.', 'e'])) {
        return word.parse().ok().map(Value::F64);
    }
    let unsigned = match hex {
        Some(hex) => i128::from(u64::from_str_radix(hex, 16).ok()?),
        None => i128::from(digits.parse::<u64>().ok()?),
    };
    let number = if negative { -unsigned } else { unsigned };
    Some(match kind {
        "y" => Value::Byte(number.try_into().ok()?),
        "n" => Value::I16(number.try_into().ok()?),
        "q" => Value::U16(number.try_into().ok()?),
        "" | "i" => Value::I32(number.try_into().ok()?),
        "u" => Value::U32(number.try_into().ok()?),
        "x" => Value::I64(number.try_into().ok()?),
        "t" => Value::U64(number.try_into().ok()?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_container_is_cannot_be_said() {
        for name in OURS {
            let asked = BTreeMap::from([(format!("{PREFIX}{name}"), "true".to_owned())]);
            let text = properties(&asked).unwrap_err().to_string();
            assert!(text.contains(name) && text.contains("the runtime's own"), "{text}");
        }
    }

    #[test]
    fn texts_are_values() {
        let strings = |texts: &[&str]| Value::Array("s".into(), texts.iter().map(|it| Value::str(*it)).collect());
        for (text, value) in [
            ("'inactive-or-failed'", Value::str("inactive-or-failed")),
            (r#""a \"b\" \\""#, Value::str(r#"a "b" \"#)),
            ("true", Value::Bool(true)),
            ("5", Value::I32(5)),
            ("-0x10", Value::I32(-16)),
            ("1.5", Value::F64(1.5)),
            ("uint64 123456789", Value::U64(123_456_789)),
            ("byte 0xff", Value::Byte(255)),
            ("@t 5", Value::U64(5)),
            ("['dbus.service', 'x']", strings(&["dbus.service", "x"])),
            ("@as []", strings(&[])),
            ("[uint32 1, 2]", Value::Array("u".into(), vec![Value::U32(1), Value::U32(2)])),
            ("('a', uint64 2)", Value::Struct(vec![Value::str("a"), Value::U64(2)])),
            (
                "@a(st) [('a', 2)]",
                Value::Array("(st)".into(), vec![Value::Struct(vec![Value::str("a"), Value::U64(2)])]),
            ),
            ("<true>", Value::Variant(Box::new(Value::Bool(true)))),
            ("objectpath '/x'", Value::Path("/x".into())),
        ] {
            assert_eq!(parse(text), Some(value), "{text}");
        }
        for text in [
            "",
            "word",
            "[]",
            "[1, 'x']",
            "'open",
            "5000000000",
            "byte 256",
            "uint32 -1",
            "1 2",
            "[1",
            "@as [1]",
            "('a'",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse(&"[".repeat(100_000)), None);
    }

    #[test]
    fn annotations_are_properties_and_seconds_microseconds() {
        let of = |key: &str, text: &str| properties(&[(key.to_owned(), text.to_owned())].into());
        assert_eq!(of("org.other", "x").unwrap(), []);
        assert_eq!(
            of("org.systemd.property.CollectMode", "'inactive'").unwrap(),
            [("CollectMode".to_owned(), Value::str("inactive"))]
        );
        for (key, text, name, value) in [
            ("org.systemd.property.TimeoutStopSec", "uint64 2", "TimeoutStopUSec", 2_000_000),
            ("org.systemd.property.TimeoutStopSec", "1.5", "TimeoutStopUSec", 1_500_000),
            ("org.systemd.property.TimeoutStopUSec", "uint64 7", "TimeoutStopUSec", 7),
        ] {
            assert_eq!(of(key, text).unwrap(), [(name.to_owned(), Value::U64(value))]);
        }
        for (key, text, word) in [
            ("org.systemd.property.Ab", "1", "name incorrect"),
            ("org.systemd.property.A/../b", "1", "name incorrect"),
            ("org.systemd.property.TimeoutStopSec", "'1'", "not a number"),
            ("org.systemd.property.TimeoutStopSec", "-1", "not a number"),
            ("org.systemd.property.After", "nonsense", "value parse error"),
        ] {
            assert!(of(key, text).unwrap_err().to_string().contains(word), "{key} {text}");
        }
    }
}
