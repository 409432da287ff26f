//! Who gets to a registry: certificates, and logins in the files and by the helpers of other tools.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use integration::command::{Files, Out, run, tool};
use integration::peer::registry::Registry;
use integration::place::Place;

/// Makes an authority, a server's certificate for 127.0.0.1 and a client's, in $1.
const CERTIFICATES: &str = r#"
cd "$1"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.crt
make() {
	openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$1" -keyout "$1.key" -out "$1.csr"
	printf 'subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\nextendedKeyUsage=%s\n' "$2" >"$1.ext"
	openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile "$1.ext" -out "$1.crt"
}
make server serverAuth
make client clientAuth
"#;

/// imgtool of a user with a home of its own, and the programs of a test on its PATH.
#[track_caller]
fn at_home(place: &Place, args: &[&str], stdin: &str) -> Out {
    let input = place.dir.join("stdin");
    fs::write(&input, stdin).unwrap();
    let mut command = Command::new(integration::programs::ours("imgtool"));
    command.arg("--root").arg(place.dir.join("store")).args(args).stdin(fs::File::open(&input).unwrap());
    command.env("TARE_TEST", &place.id).env("HOME", &place.dir);
    for name in ["XDG_CONFIG_HOME", "REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "SSL_CERT_FILE"] {
        command.env_remove(name);
    }
    command.env("XDG_RUNTIME_DIR", place.dir.join("run"));
    command.env("PATH", format!("{}:{}", place.dir.display(), std::env::var("PATH").unwrap()));
    run(&mut command, &Files::new(&place.dir, "home"))
}

#[test]
fn certificates_are_those_of_certs_d() {
    let place = Place::new();
    let certs = place.dir.join("certs");
    fs::create_dir(&certs).unwrap();
    tool("sh", &["-euc", CERTIFICATES, "sh", certs.to_str().unwrap()]).ok();
    let registry = Registry::start_with_tls(&place.id, &place.dir, &certs);
    place.small_image();
    let reference = format!("{}/app:1", registry.host);
    let push = ["push", "-q", "--tls-verify", "small:1", reference.as_str()];
    let pull = ["pull", "-q", "--tls-verify", reference.as_str()];
    at_home(&place, &push, "").refused(&["127.0.0.1", "certificate"]);
    let directory = place.dir.join(".config/containers/certs.d").join(&registry.host);
    fs::create_dir_all(&directory).unwrap();
    let give = |from: &str, to: &str| assert!(fs::copy(certs.join(from), directory.join(to)).unwrap() > 0);
    give("ca.crt", "ca.crt");
    // The server is trusted, the client is not yet.
    at_home(&place, &push, "").refused(&["127.0.0.1", "ertificate"]);
    give("client.crt", "client.cert");
    at_home(&place, &push, "").refused(&["client.key"]);
    give("client.key", "client.key");
    at_home(&place, &push, "").ok();
    at_home(&place, &["rm", "small:1"], "").ok();
    at_home(&place, &pull, "").ok();
    // Without verification the server may be anybody; it still wants to know who we are.
    fs::remove_file(directory.join("ca.crt")).unwrap();
    at_home(&place, &["tags", "--tls-verify=false", &format!("{}/app", registry.host)], "").ok();
    at_home(&place, &["tags", "--tls-verify", &format!("{}/app", registry.host)], "").refused(&["certificate"]);
}

#[test]
fn a_credential_helper_keeps_shows_and_forgets_a_login() {
    let place = Place::new();
    let registry = Registry::start_with_login(&place.id, &place.dir, "user", "secret");
    place.small_image();
    let (kept, helper) = (place.dir.join("kept"), place.dir.join("docker-credential-tests"));
    let script = format!(
        "#!/bin/sh\ncase $1 in\nstore) cat >{0} ;;\nerase) rm -f {0} ;;\n\
         get) grep -qx '{1}' && test -e {0} && cat {0} || {{ echo credentials not found; exit 1; }} ;;\nesac\n",
        kept.display(),
        registry.host,
    );
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(place.dir.join(".docker")).unwrap();
    let config = place.dir.join(".docker/config.json");
    let text = serde_json::json!({"credHelpers": {&registry.host: "tests"}}).to_string();
    fs::write(&config, &text).unwrap();
    let reference = format!("{}/private:1", registry.host);
    let push = ["push", "-q", "small:1", reference.as_str()];
    at_home(&place, &push, "").refused(&["login"]);
    at_home(&place, &["login", "-u", "user", "--password-stdin", &registry.host], "secret\n").ok();
    assert!(fs::read_to_string(&kept).unwrap().contains("secret"));
    assert_eq!(fs::read_to_string(&config).unwrap(), text, "the secret is the helper's alone");
    at_home(&place, &push, "").ok();
    at_home(&place, &["logout", &registry.host], "").ok();
    assert!(!kept.exists());
    at_home(&place, &push, "").refused(&["login"]);
}

#[test]
fn logins_of_podman_and_skopeo_are_used() {
    let place = Place::new();
    let registry = Registry::start_with_login(&place.id, &place.dir, "user", "secret");
    place.small_image();
    let reference = format!("{}/private:1", registry.host);
    let push = ["push", "-q", "small:1", reference.as_str()];
    let auth = place.dir.join("run/containers/auth.json");
    fs::create_dir_all(auth.parent().unwrap()).unwrap();
    let by = |file: &Path| {
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["login", "--tls-verify=false", "-u", "user", "-p", "secret", "--authfile"]);
        skopeo.arg(file).arg(&registry.host).stdin(Stdio::null());
        run(&mut skopeo, &Files::new(&place.dir, "skopeo")).ok();
    };
    by(&auth);
    at_home(&place, &push, "").ok();
    let elsewhere = place.dir.join("elsewhere.json");
    fs::rename(&auth, &elsewhere).unwrap();
    at_home(&place, &["pull", "-q", &reference], "").refused(&["login"]);
    at_home(&place, &["pull", "-q", "--authfile", elsewhere.to_str().unwrap(), &reference], "").ok();
}
