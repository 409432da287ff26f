//! D-Bus messages as bytes, as far as systemd's manager needs them: little-endian, and without descriptors.
//! <https://dbus.freedesktop.org/doc/dbus-specification.html#message-protocol-marshaling>

use crate::error::{Error, Result};

/// A value of the D-Bus type system.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Byte(u8),
    Bool(bool),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    F64(f64),
    Str(String),
    Path(String),
    Signature(String),
    /// The signature of an element, and the elements.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    Variant(Box<Value>),
}

impl Value {
    pub(super) fn str(text: impl Into<String>) -> Self {
        Self::Str(text.into())
    }

    pub(super) fn bytes(bytes: Vec<u8>) -> Self {
        Self::Array("y".into(), bytes.into_iter().map(Self::Byte).collect())
    }

    /// Names with values, as systemd takes them: `a(sv)`.
    pub(super) fn properties(properties: &[(String, Value)]) -> Self {
        let pair = |(name, value): &(String, Value)| {
            Self::Struct(vec![Self::str(name), Self::Variant(Box::new(value.clone()))])
        };
        Self::Array("(sv)".into(), properties.iter().map(pair).collect())
    }

    pub(super) fn signature(&self) -> String {
        match self {
            Self::Byte(_) => "y".into(),
            Self::Bool(_) => "b".into(),
            Self::I16(_) => "n".into(),
            Self::U16(_) => "q".into(),
            Self::I32(_) => "i".into(),
            Self::U32(_) => "u".into(),
            Self::I64(_) => "x".into(),
            Self::U64(_) => "t".into(),
            Self::F64(_) => "d".into(),
            Self::Str(_) => "s".into(),
            Self::Path(_) => "o".into(),
            Self::Signature(_) => "g".into(),
            Self::Array(element, _) => format!("a{element}"),
            Self::Struct(fields) => format!("({})", fields.iter().map(Self::signature).collect::<String>()),
            Self::Variant(_) => "v".into(),
        }
    }
}

/// To what a type's first byte is aligned.
fn alignment(signature: &str) -> usize {
    match signature.bytes().next() {
        Some(b'n' | b'q') => 2,
        Some(b'b' | b'i' | b'u' | b's' | b'o' | b'a') => 4,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 1,
    }
}

/// A call of a method. No answer is sent where `quiet` is set.
pub(super) struct Call<'a> {
    pub(super) destination: Option<&'a str>,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
    pub(super) body: &'a [Value],
    pub(super) quiet: bool,
}

const METHOD_CALL: u8 = 1;
const NO_REPLY_EXPECTED: u8 = 1;

impl Call<'_> {
    pub(super) fn encode(&self, serial: u32) -> Vec<u8> {
        let mut body = Writer::default();
        for value in self.body {
            body.put(value);
        }
        let signature: String = self.body.iter().map(Value::signature).collect();
        let mut fields =
            vec![(1, Value::Path(self.path.to_owned())), (2, Value::str(self.interface)), (3, Value::str(self.member))];
        fields.extend(self.destination.map(|name| (6, Value::str(name))));
        if !signature.is_empty() {
            fields.push((8, Value::Signature(signature)));
        }
        let fields = fields
            .into_iter()
            .map(|(code, value)| Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))]));
        let mut message = Writer::default();
        message.0.extend([b'l', METHOD_CALL, if self.quiet { NO_REPLY_EXPECTED } else { 0 }, 1]);
        message.put(&Value::U32(body.0.len() as u32));
        message.put(&Value::U32(serial));
        message.put(&Value::Array("(yv)".into(), fields.collect()));
        message.align(8);
        message.0.extend(body.0);
        message.0
    }
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number<const N: usize>(&mut self, bytes: [u8; N]) {
        self.align(N);
        self.0.extend(bytes);
    }

    fn put(&mut self, value: &Value) {
        match value {
            Value::Byte(it) => self.0.push(*it),
            Value::Bool(it) => self.number(u32::from(*it).to_le_bytes()),
            Value::I16(it) => self.number(it.to_le_bytes()),
            Value::U16(it) => self.number(it.to_le_bytes()),
            Value::I32(it) => self.number(it.to_le_bytes()),
            Value::U32(it) => self.number(it.to_le_bytes()),
            Value::I64(it) => self.number(it.to_le_bytes()),
            Value::U64(it) => self.number(it.to_le_bytes()),
            Value::F64(it) => self.number(it.to_le_bytes()),
            Value::Str(it) | Value::Path(it) => {
                self.number((it.len() as u32).to_le_bytes());
                self.0.extend(it.as_bytes());
                self.0.push(0);
            }
            Value::Signature(it) => {
                self.0.push(it.len() as u8);
                self.0.extend(it.as_bytes());
                self.0.push(0);
            }
            Value::Array(element, values) => {
                self.number(0u32.to_le_bytes());
                let length_at = self.0.len() - 4;
                // Counted from the first element, behind its padding.
                self.align(alignment(element));
                let start = self.0.len();
                for it in values {
                    self.put(it);
                }
                let length = (self.0.len() - start) as u32;
                for (to, byte) in self.0.iter_mut().skip(length_at).zip(length.to_le_bytes()) {
                    *to = byte;
                }
            }
            Value::Struct(fields) => {
                self.align(8);
                for it in fields {
                    self.put(it);
                }
            }
            Value::Variant(it) => {
                self.put(&Value::Signature(it.signature()));
                self.put(it);
            }
        }
    }
}

/// What kind of message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Return,
    Error,
    Signal,
    Other,
}

/// A message that came.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) kind: Kind,
    /// Of the call that this answers.
    pub(super) reply_to: Option<u32>,
    pub(super) member: String,
    pub(super) error: String,
    signature: String,
    body: Vec<u8>,
}

/// The fixed part of a header, up to and with the length of the fields.
pub(super) const PREFIX: usize = 16;
/// systemd's own limit is larger; nothing that we ask for comes near it.
const MAX_MESSAGE: usize = 4 << 20;

/// How long the message is of which this is the beginning.
pub(super) fn whole_length(prefix: &[u8; PREFIX]) -> Result<usize> {
    let mut reader = Reader { bytes: prefix, at: 4 };
    let body = reader.u32()? as usize;
    reader.u32()?;
    let fields = reader.u32()? as usize;
    let length = PREFIX.checked_add(fields).map(|it| it.next_multiple_of(8)).and_then(|it| it.checked_add(body));
    match (prefix, length) {
        ([b'l', ..], Some(length)) if length <= MAX_MESSAGE => Ok(length),
        _ => Err(malformed()),
    }
}

impl Message {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let kind = match bytes.get(1) {
            Some(2) => Kind::Return,
            Some(3) => Kind::Error,
            Some(4) => Kind::Signal,
            _ => Kind::Other,
        };
        let mut reader = Reader { bytes, at: 4 };
        let body = reader.u32()? as usize;
        reader.u32()?;
        let fields = reader.u32()? as usize;
        let end = reader.at.checked_add(fields).ok_or_else(malformed)?;
        let mut message = Self {
            kind,
            reply_to: None,
            member: String::new(),
            error: String::new(),
            signature: String::new(),
            body: Vec::new(),
        };
        while reader.at < end {
            reader.align(8);
            let code = reader.u8()?;
            match (code, &*reader.signature()?) {
                (3, "s") => message.member = reader.string()?,
                (4, "s") => message.error = reader.string()?,
                (5, "u") => message.reply_to = Some(reader.u32()?),
                (8, "g") => message.signature = reader.signature()?,
                (_, "s" | "o") => drop(reader.string()?),
                (_, "u") => drop(reader.u32()?),
                (_, "g") => drop(reader.signature()?),
                _ => return Err(malformed()),
            }
        }
        reader.align(8);
        message.body = reader.take(body)?.to_vec();
        Ok(message)
    }

    /// The values of a body of strings, paths and numbers, the latter as text; `None` for one of other types.
    pub(super) fn words(&self) -> Option<Vec<String>> {
        let mut reader = Reader { bytes: &self.body, at: 0 };
        self.signature.chars().map(|kind| reader.word(kind)).collect()
    }

    /// The value of a body that is one variant of such a type.
    pub(super) fn variant(&self) -> Option<String> {
        let mut reader = Reader { bytes: &self.body, at: 0 };
        let mut kinds = (self.signature == "v").then(|| reader.signature().ok()).flatten()?;
        let kind = kinds.pop().filter(|_| kinds.is_empty())?;
        reader.word(kind)
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(count).ok_or_else(malformed)?;
        let taken = self.bytes.get(self.at..end).ok_or_else(malformed)?;
        self.at = end;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8> {
        self.take(1)?.first().copied().ok_or_else(malformed)
    }

    fn u32(&mut self) -> Result<u32> {
        self.align(4);
        let bytes: [u8; 4] = self.take(4)?.try_into().map_err(|_| malformed())?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn text(&mut self, length: usize) -> Result<String> {
        let text = String::from_utf8(self.take(length)?.to_vec()).map_err(|_| malformed())?;
        // The terminating zero.
        self.u8()?;
        Ok(text)
    }

    fn string(&mut self) -> Result<String> {
        let length = self.u32()? as usize;
        self.text(length)
    }

    fn signature(&mut self) -> Result<String> {
        let length = usize::from(self.u8()?);
        self.text(length)
    }

    fn word(&mut self, kind: char) -> Option<String> {
        match kind {
            's' | 'o' => self.string().ok(),
            'u' => self.u32().ok().map(|it| it.to_string()),
            _ => None,
        }
    }
}

fn malformed() -> Error {
    Error::other("D-Bus: a message that is none")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A message of that type with these fields, as a manager would send it.
    fn message(kind: u8, fields: Vec<(u8, Value)>, body: &[Value]) -> Vec<u8> {
        let mut writer = Writer::default();
        for value in body {
            writer.put(value);
        }
        let signature = Value::Signature(body.iter().map(Value::signature).collect());
        let fields = fields.into_iter().chain([(8, signature), (7, Value::str(":1.2"))]);
        let fields =
            fields.map(|(code, value)| Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))]));
        let mut whole = Writer(vec![b'l', kind, 0, 1]);
        whole.put(&Value::U32(writer.0.len() as u32));
        whole.put(&Value::U32(9));
        whole.put(&Value::Array("(yv)".into(), fields.collect()));
        whole.align(8);
        whole.0.extend(writer.0);
        whole.0
    }

    pub(in super::super) fn answer(serial: u32, body: &[Value]) -> Vec<u8> {
        message(2, vec![(5, Value::U32(serial))], body)
    }

    pub(in super::super) fn refusal(serial: u32, name: &str, text: &str) -> Vec<u8> {
        message(3, vec![(5, Value::U32(serial)), (4, Value::str(name))], &[Value::str(text)])
    }

    pub(in super::super) fn signal(member: &str, body: &[Value]) -> Vec<u8> {
        message(4, vec![(1, Value::Path("/m".into())), (3, Value::str(member))], body)
    }

    fn encoded(value: &Value) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.put(value);
        writer.0
    }

    #[test]
    fn values_are_aligned_and_counted_as_the_specification_says() {
        let pair = |text: &str, value| Value::Struct(vec![Value::str(text), value]);
        for (value, signature, bytes) in [
            (Value::Bool(true), "b", vec![1, 0, 0, 0]),
            (Value::str("hi"), "s", vec![2, 0, 0, 0, b'h', b'i', 0]),
            (Value::bytes(vec![3, 4]), "ay", vec![2, 0, 0, 0, 3, 4]),
            (Value::Array("t".into(), vec![]), "at", vec![0, 0, 0, 0, 0, 0, 0, 0]),
            (Value::Array("t".into(), vec![Value::U64(5)]), "at", vec![8, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]),
            (Value::Variant(Box::new(Value::U16(9))), "v", vec![1, b'q', 0, 0, 9, 0]),
            (pair("a", Value::I64(-1)), "(sx)", [vec![1, 0, 0, 0, b'a', 0, 0, 0], vec![255; 8]].concat()),
            (
                Value::Array("(ss)".into(), vec![pair("x", Value::str("y"))]),
                "a(ss)",
                [vec![14, 0, 0, 0, 0, 0, 0, 0], vec![1, 0, 0, 0, b'x', 0, 0, 0], vec![1, 0, 0, 0, b'y', 0]].concat(),
            ),
        ] {
            assert_eq!(value.signature(), signature);
            assert_eq!(encoded(&value), bytes, "{value:?}");
        }
    }

    #[test]
    fn a_call_says_where_it_goes_and_what_it_brings() {
        let body = [Value::str("u"), Value::properties(&[("Slice".into(), Value::str("a.slice"))])];
        let call = Call { destination: None, path: "/p", interface: "i.f", member: "M", body: &body, quiet: true };
        let bytes = call.encode(7);
        assert_eq!(bytes.get(..4).unwrap(), [b'l', 1, 1, 1]);
        assert_eq!(whole_length(bytes[..PREFIX].try_into().unwrap()).unwrap(), bytes.len());
        let message = Message::decode(&bytes).unwrap();
        assert_eq!((&*message.member, &*message.signature), ("M", "sa(sv)"));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let body = [Value::str("unit"), Value::U32(5)];
        let call =
            Call { destination: Some("d.e"), path: "/p", interface: "i", member: "m", body: &body, quiet: false };
        let bytes = call.encode(1);
        assert_eq!(Message::decode(&bytes).unwrap().words().unwrap(), ["unit", "5"]);
        for cut in 0..bytes.len() {
            assert!(Message::decode(&bytes[..cut]).is_err(), "{cut}");
        }
        for at in 0..bytes.len() {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] = byte;
                let _ = whole_length(bytes[..PREFIX].try_into().unwrap());
                let _ = Message::decode(&bytes).map(|it| (it.words(), it.variant()));
            }
        }
    }
}
