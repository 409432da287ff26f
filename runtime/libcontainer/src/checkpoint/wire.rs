//! The little of protocol buffers that criu's RPC needs (<https://protobuf.dev/programming-guides/encoding/>): numbers, texts
//! and messages in messages. A code generator would weigh more than this.

/// A message that is being written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Message(Vec<u8>);

impl Message {
    /// A number, an enum or a truth value.
    pub(super) fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    pub(super) fn text(&mut self, field: u64, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    pub(super) fn message(&mut self, field: u64, message: &Message) {
        self.bytes(field, &message.0);
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
    }

    /// Seven bits a byte, the lowest first.
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// A field that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Number(u64),
    /// A text or a message.
    Bytes(&'a [u8]),
}

/// The fields of a message. None where it is none.
pub(super) fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, Value<'_>)>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut bytes)?),
            1 => Value::Bytes(take(&mut bytes, 8)?),
            2 => {
                let length = varint(&mut bytes)?;
                Value::Bytes(take(&mut bytes, usize::try_from(length).ok()?)?)
            }
            5 => Value::Bytes(take(&mut bytes, 4)?),
            _ => return None,
        };
        fields.push((key >> 3, value));
    }
    Some(fields)
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_those_of_the_standard() {
        let mut inner = Message::default();
        inner.text(2, "testing");
        let mut message = Message::default();
        message.number(1, 150);
        message.message(3, &inner);
        // The examples of the encoding's own description.
        assert_eq!(message.as_bytes(), b"\x08\x96\x01\x1a\x09\x12\x07testing");
        let read = fields(message.as_bytes()).unwrap();
        assert_eq!(read[0], (1, Value::Number(150)));
        let (3, Value::Bytes(inner)) = read[1] else { panic!("{read:?}") };
        assert_eq!(fields(inner).unwrap(), [(2, Value::Bytes(b"testing"))]);
        let mut largest = Message::default();
        largest.number(68, u64::MAX);
        assert_eq!(fields(largest.as_bytes()).unwrap(), [(68, Value::Number(u64::MAX))]);
    }

    #[test]
    fn garbage_is_none() {
        for bytes in [
            &b"\x08"[..],
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x12\x05ab",
            b"\x0b",
            b"\x12\xff\xff\xff\xff\x0f",
        ] {
            assert!(fields(bytes).is_none(), "{bytes:?}");
        }
    }
}
