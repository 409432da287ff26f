//! Credentials and tokens: who gets to see them.

use std::sync::atomic::Ordering;

use super::fake::{Fake, Reply};
use super::*;

#[test]
fn credentials_do_not_follow_a_redirect() {
    let (fake, reference, digest) = simple();
    let elsewhere = Fake::start();
    let (broken, blob, target) = (digest.clone(), fake.blob(&digest), format!("http://{}/away?sig=1", elsewhere.host));
    elsewhere.fault(move |_, _| Some(Reply { body: blob.clone(), ..Reply::status(200) }));
    fake.fault(move |request, _| {
        if request.header("authorization") != Some("Basic dXNlcjpwYXNz") {
            return Some(Reply::status(401).with("WWW-Authenticate", "Basic realm=\"r\""));
        }
        is_blob(&request.path, &broken).then(|| Reply::status(307).with("Location", &target))
    });
    let mut place = Place::new();
    place.login("user:pass");
    place.pull(&reference).unwrap();
    let seen = elsewhere.requests("/away");
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].header("authorization"), None, "CVE-2020-15157");
    assert!(fake.requests("/blobs/").iter().all(|r| r.header("authorization").is_some()));
}

#[test]
fn a_login_that_is_missing_or_wrong_is_named() {
    let (fake, reference, _) = simple();
    fake.fault(|_, _| Some(Reply::status(401).with("WWW-Authenticate", "Basic realm=\"r\"")));
    let mut place = Place::new();
    assert!(place.error(&reference).contains("--creds"));
    place.login("user:wrong");
    assert!(place.error(&reference).contains("not authorized"));
    place.check_clean();
}

#[test]
fn a_token_is_fetched_where_the_registry_says_and_used_there_only() {
    let (fake, reference, _) = simple();
    let issuer = Fake::start();
    issuer.fault(|request, _| {
        let good = request.path == "/token?scope=repository:app:pull&service=the%20registry"
            && request.header("authorization") == Some("Basic dXNlcjpwYXNz");
        Some(if good {
            Reply { body: br#"{"token":"t0ken"}"#.to_vec(), ..Reply::status(200) }
        } else {
            Reply::status(403)
        })
    });
    let realm =
        format!("Bearer realm=\"http://{}/token\",service=\"the registry\",scope=\"repository:app:pull\"", issuer.host);
    fake.fault(move |request, _| {
        (request.header("authorization") != Some("Bearer t0ken"))
            .then(|| Reply::status(401).with("WWW-Authenticate", &realm))
    });
    let mut place = Place::new();
    place.login("user:pass");
    place.pull(&reference).unwrap();
    assert_eq!(issuer.requests("").len(), 1, "one token serves the whole pull");
    let mut other = Place::new();
    other.login("user:wrong");
    let error = other.error(&reference);
    assert!(error.contains("login refused"), "{error}");
}

#[test]
fn a_token_that_expires_on_the_way_is_fetched_anew() {
    let fake = Fake::start();
    fake.put_image("1", &[gzip_layer(&tar(&[("a", &noise(1000))])), gzip_layer(&tar(&[("b", &noise(2000))]))]);
    let issuer = Fake::start();
    issuer.fault(|_, before| {
        Some(Reply { body: format!("{{\"access_token\":\"t{before}\"}}").into_bytes(), ..Reply::status(200) })
    });
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"r\"", issuer.host);
    let good = std::sync::atomic::AtomicUsize::new(0);
    fake.fault(move |request, _| {
        // The first blob's request is the last that the first token is good for.
        let number = good.load(Ordering::Relaxed);
        let accepted = request.header("authorization") == Some(&format!("Bearer t{number}"));
        if accepted && number == 0 && request.path.contains("/blobs/") {
            good.store(1, Ordering::Relaxed);
        }
        (!accepted).then(|| Reply::status(401).with("WWW-Authenticate", &realm))
    });
    Place::new().pull(&format!("{}/app:1", fake.host)).unwrap();
    assert_eq!(issuer.requests("/token").len(), 2, "those who work at the same time share it");
}
