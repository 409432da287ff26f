//! Registries that break off, lie about sizes and contents, are busy, or are not there.

use std::fs;

use super::fake::{Fake, Reply};
use super::*;

#[test]
fn a_broken_connection_is_taken_up_where_it_broke() {
    let (fake, reference, digest) = simple();
    let (broken, blob) = (digest.clone(), fake.blob(&digest));
    fake.fault(move |request, before| {
        let whole = Reply { body: blob.clone(), ..Reply::status(200) };
        (before == 0 && is_blob(&request.path, &broken)).then(|| whole.cut_after(100_000))
    });
    let place = Place::new();
    place.pull(&reference).unwrap();
    let asked = fake.requests(digest.hex());
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1].header("range"), Some("bytes=100000-"));
}

#[test]
fn a_server_without_ranges_is_read_again_from_the_start() {
    let (fake, reference, digest) = simple();
    fake.without_ranges();
    let (broken, blob) = (digest.clone(), fake.blob(&digest));
    fake.fault(move |request, before| {
        let whole = Reply { body: blob.clone(), ..Reply::status(200) };
        (before == 0 && is_blob(&request.path, &broken)).then(|| whole.cut_after(100_000))
    });
    Place::new().pull(&reference).unwrap();
}

#[test]
fn a_pull_that_failed_is_taken_up_by_the_next() {
    let (fake, reference, digest) = simple();
    let (broken, blob) = (digest.clone(), fake.blob(&digest));
    // Breaks off at 100,000 bytes, and then gives nothing more.
    fake.fault(move |request, before| {
        let range = request.header("range").is_some();
        let whole = Reply { body: blob.clone(), ..Reply::status(200) };
        is_blob(&request.path, &broken).then(|| {
            if before == 0 && !range { whole.cut_after(100_000) } else { Reply::status(503).with("Retry-After", "0") }
        })
    });
    let place = Place::new();
    let error = place.error(&reference);
    assert!(error.starts_with(&format!("layer {digest}: download: ")), "{error}");
    place.check_clean();
    assert_eq!(place.list("ingest"), [format!("sha256-{}.partial", digest.hex())]);
    fake.honest_again();
    let before = fake.requests(digest.hex()).len();
    place.pull(&reference).unwrap();
    let asked = fake.requests(digest.hex()).split_off(before);
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("range"), Some("bytes=100000-"));
    assert!(place.list("ingest").is_empty());
}

#[test]
fn a_truncated_blob_is_named_as_such() {
    let (fake, reference, digest) = simple();
    let (broken, blob) = (digest.clone(), fake.blob(&digest));
    fake.fault(move |request, _| {
        // A server that believes the blob is shorter than the manifest says.
        let short = Reply {
            body: if request.header("range").is_some() { Vec::new() } else { blob[..1000].to_vec() },
            ..Reply::status(200)
        };
        is_blob(&request.path, &broken).then_some(short)
    });
    let place = Place::new();
    let error = place.error(&reference);
    assert!(error.contains(&digest.to_string()) && error.contains("the registry has 1000 bytes"), "{error}");
    place.check_clean();
}

#[test]
fn an_altered_blob_is_refused_and_not_kept() {
    let (fake, reference, digest) = simple();
    for at in [20, 50_000, 299_000] {
        let (broken, mut blob) = (digest.clone(), fake.blob(&digest));
        blob[at] ^= 0x40;
        fake.fault(move |request, _| {
            is_blob(&request.path, &broken).then(|| Reply { body: blob.clone(), ..Reply::status(200) })
        });
        let place = Place::new();
        let error = place.error(&reference);
        assert!(error.starts_with(&format!("layer {digest}: digest mismatch: got sha256:")), "{at}: {error}");
        place.check_clean();
        assert!(place.list("ingest").is_empty());
    }
}

#[test]
fn a_damaged_beginning_from_an_earlier_pull_is_fetched_again() {
    let (fake, reference, digest) = simple();
    let place = Place::new();
    fs::write(place.store.path(format!("ingest/sha256-{}.partial", digest.hex())), noise(5000)).unwrap();
    place.pull(&reference).unwrap();
    assert_eq!(fake.requests(digest.hex()).len(), 2, "once from 5000 on, once from the start");
}

#[test]
fn a_blob_that_does_not_end_is_refused() {
    let (fake, reference, digest) = simple();
    let (broken, mut blob) = (digest.clone(), fake.blob(&digest));
    blob.extend(noise(100_000));
    fake.fault(move |request, _| {
        is_blob(&request.path, &broken).then(|| Reply { body: blob.clone(), ..Reply::status(200) })
    });
    let place = Place::new();
    let error = place.error(&reference);
    assert!(error.contains("size mismatch: the registry has"), "{error}");
    place.check_clean();
}

#[test]
fn redirects_in_a_circle_end() {
    let (fake, reference, digest) = simple();
    fake.fault(move |request, _| {
        is_blob(&request.path, &digest).then(|| Reply::status(302).with("Location", &request.path))
    });
    assert!(Place::new().error(&reference).contains("more than 5 redirects"));
}

#[test]
fn a_busy_registry_is_asked_again() {
    let (fake, reference, digest) = simple();
    fake.fault(move |request, before| match before {
        0 if request.path.contains("manifests") => Some(Reply::status(503)),
        0 if is_blob(&request.path, &digest) => Some(Reply::status(429).with("Retry-After", "0")),
        // A time that is over.
        1 if is_blob(&request.path, &digest) => {
            Some(Reply::status(429).with("Retry-After", "Sun, 06 Nov 1994 08:49:37 GMT"))
        }
        _ => None,
    });
    Place::new().pull(&reference).unwrap();
}

#[test]
fn a_registry_that_asks_for_a_long_wait_is_not_waited_for() {
    for (wait, told) in [("3600", "come back in 3600 seconds"), ("Wed, 01 Jan 2098 00:00:00 GMT", "come back in")] {
        let (fake, reference, _) = simple();
        fake.fault(move |_, _| Some(Reply::status(429).with("Retry-After", wait)));
        let error = Place::new().error(&reference);
        assert!(error.contains(told), "{error}");
        assert_eq!(fake.requests("manifests").len(), 1);
    }
}

#[test]
fn the_registrys_own_words_are_in_the_error() {
    let (fake, reference, _) = simple();
    let body = br#"{"errors":[{"code":"DENIED","message":"not for\u001b[31m you\nat all"}]}"#;
    fake.fault(|_, _| Some(Reply { body: body.to_vec(), ..Reply::status(403) }));
    let error = Place::new().error(&reference);
    assert!(error.ends_with("access denied (not for [31m you at all)"), "{error:?}");
}

#[test]
fn a_registry_that_is_not_there_is_named_at_once() {
    let place = Place::new();
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = place.error(&format!("127.0.0.1:{port}/app:1"));
    assert_eq!(error, format!("registry 127.0.0.1:{port}: Connection refused"));
    place.check_clean();
}

#[test]
fn a_damaged_beginning_of_a_large_blob_is_fetched_again() {
    // So large that the rest is not read to its end, where the digest would tell whose fault it is.
    let tar = tar(&[("file", &vec![0xaa; 40 << 20])]);
    let fake = Fake::start();
    let digest = Digest::of(&tar);
    fake.put_image("1", &[(oci::OCI_LAYER, tar, digest.clone())]);
    let place = Place::new();
    fs::write(place.store.path(format!("ingest/sha256-{}.partial", digest.hex())), noise(5000)).unwrap();
    place.pull(&format!("{}/app:1", fake.host)).unwrap();
    assert_eq!(fake.requests(digest.hex()).len(), 2);
}
