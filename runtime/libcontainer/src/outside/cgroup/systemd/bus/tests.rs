//! Against a manager of our own, at the other end of a socket.

use super::*;
use crate::outside::cgroup::systemd::wire::tests::{answer, refusal, signal};
use std::thread::{JoinHandle, spawn};

/// A server that lets the client in, and answers each call that is not quiet with what `act` says.
fn server(routed: bool, mut act: impl FnMut(&str, u32) -> Vec<u8> + Send + 'static) -> (Bus, JoinHandle<Vec<String>>) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let server = spawn(move || {
        let mut bytes = Vec::new();
        let mut buffer = [0; 512];
        let mut members = Vec::new();
        let mut greeted = false;
        while let Ok(count @ 1..) = theirs.read(&mut buffer) {
            bytes.extend_from_slice(&buffer[..count]);
            if !greeted && bytes.len() >= GREETING.len() {
                assert_eq!(bytes, GREETING, "nothing may come with it");
                bytes.clear();
                greeted = true;
                // In pieces, as a stream may bring it.
                theirs.write_all(b"DATA\r\nOK 12").unwrap();
                theirs.write_all(b"34\r\n").unwrap();
            }
            while greeted && bytes.len() >= PREFIX {
                let length = whole_length(bytes.first_chunk().unwrap()).unwrap();
                if bytes.len() < length {
                    break;
                }
                let whole: Vec<u8> = bytes.drain(..length).collect();
                let serial = u32::from_le_bytes(whole[8..12].try_into().unwrap());
                let message = Message::decode(&whole).unwrap();
                if whole[2] == 0 {
                    // The client may have gone when it has what it wanted.
                    let _ = theirs.write_all(&act(&message.member, serial));
                }
                members.push(message.member);
            }
        }
        members
    });
    (Bus::over(ours, routed), server)
}

fn job(path: &str, result: &str) -> Vec<u8> {
    let body = [Value::U32(7), Value::Path(path.into()), Value::str("a.scope"), Value::str(result)];
    signal("JobRemoved", &body)
}

#[test]
fn a_job_is_awaited_also_when_it_ends_before_its_answer() {
    for early in [true, false] {
        let (mut bus, server) = server(false, move |_, serial| {
            let answer = answer(serial, &[Value::Path("/job/2".into())]);
            let (other, own) = (job("/job/1", "failed"), job("/job/2", "done"));
            let noise = signal("UnitNew", &[Value::str("x")]);
            let order = if early { [noise, other, own, answer] } else { [answer, noise, other, own] };
            order.concat()
        });
        let message = bus.manager("StartTransientUnit", &[]).unwrap().unwrap();
        assert_eq!(bus.await_job(&message).unwrap(), "done");
        drop(bus);
        assert_eq!(server.join().unwrap(), ["StartTransientUnit"]);
    }
}

#[test]
fn over_a_bus_it_says_hello_and_listens_first() {
    let (mut bus, server) = server(true, |_, serial| answer(serial, &[Value::Variant(Box::new(Value::str("/user")))]));
    assert_eq!(bus.property("ControlGroup").unwrap(), "/user");
    drop(bus);
    assert_eq!(server.join().unwrap(), ["Hello", "AddMatch", "Subscribe", "Get"]);
}

#[test]
fn a_refusal_has_a_name_and_a_text() {
    let (mut bus, _server) =
        server(false, |_, serial| refusal(serial, "org.freedesktop.systemd1.UnitExists", "it is there"));
    let refusal = bus.manager("StartTransientUnit", &[]).unwrap().unwrap_err();
    assert!(refusal.is("UnitExists") && !refusal.is("NoSuchUnit"));
    assert_eq!(Error::from(refusal).to_string(), "it is there");
}

#[test]
fn a_server_that_hangs_up_or_talks_nonsense_is_an_error() {
    for (bytes, word) in [
        (&b""[..], "closed"),
        (b"REJECTED EXTERNAL\r\n", "not let in"),
        (b"nonsense\r\n", "not let in"),
        (&[b'x'; 5000], "not let in"),
        (b"OK 1\r\nl\x02\x00\x01\xff\xff\xff\xff\x00\x00\x00\x00\xff\xff\xff\xff", "a message that is none"),
        (b"OK 1\r\nB\x02\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "a message that is none"),
        (b"OK 1\r\nl\x02\x00\x01", "closed"),
    ] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(bytes).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        let error = Bus::over(ours, false).fence().unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn addresses_of_the_bus() {
    let of = |text: &str| {
        let address = parse_address(OsStr::new(text), Some(OsStr::new("/run/user/5")))?;
        let path = address.as_pathname().map(|it| it.display().to_string());
        path.or_else(|| address.as_abstract_name().map(|it| format!("@{}", String::from_utf8_lossy(it))))
    };
    for (text, expected) in [
        ("unix:path=/run/user/0/bus", "/run/user/0/bus"),
        ("unix:guid=1,path=/a%20b", "/a b"),
        ("tcp:host=x;unix:abstract=/tmp/dbus,guid=2", "@/tmp/dbus"),
        ("unix:runtime=yes", "/run/user/5/bus"),
    ] {
        assert_eq!(of(text).as_deref(), Some(expected));
    }
    for text in ["", "tcp:host=x", "unix:", "unix:path", "unix:path=/a%2", "unix:path=/a%zz", "unix:runtime=no"] {
        assert_eq!(of(text), None, "{text}");
    }
}
