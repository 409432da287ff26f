//! The application that every introduction begins with: a web server of a few lines, built, run with a published port,
//! asked, looked into, changed and built again.

use std::fs;
use std::process::{Command, Stdio};

use integration::command::{self, Files};
use integration::peer::image;
use integration::place::Place;
use integration::programs::{self, Runtime};

const APP: &str = "from flask import Flask\n\napp = Flask(__name__)\n\n\n@app.route('/')\ndef index():\n    return 'Hello, World!\\n'\n\n\napp.run(host='0.0.0.0', port=5000)\n";
const DOCKERFILE: &str = "FROM python\nWORKDIR /app\nCOPY requirements.txt .\nRUN python3 -c \"import flask; print('flask is there for', open('requirements.txt').read().strip())\"\nCOPY app.py .\nEXPOSE 5000\nCMD [\"python3\", \"app.py\"]\n";

/// All that a user types after the build, in a network namespace of the test's own.
const RUN: &str = r#"
set -e
ip link set lo up
mkdir -p /var/lib/cni && mount -t tmpfs tmpfs /var/lib/cni
shim="$SHIM --root $PLACE/containers --run-root $PLACE/run --runtime $RUNTIME --runtime-root $PLACE/state"
bundle=$("$IMGTOOL" --root "$PLACE/store" bundle --quiet -p 5001:5000 flask-app)
$shim run -d --name web "$bundle" >/dev/null
tries=0 # the server may not listen yet
until busybox wget -q -O - http://10.87.0.1:5001/; do tries=$((tries + 1)); [ $tries -lt 300 ] || { $shim logs web; exit 1; }; sleep 0.1; done
$shim ps | grep -q ' 0.0.0.0:5001->5000/tcp ' && $shim ps | grep -q '^web  *[^ ]*flask-app:latest ' || { $shim ps; exit 1; }
tries=0 # what it says of the request comes to the log by a pipe, maybe after its answer came to us
until $shim logs web 2>&1 | grep -q 'GET / HTTP'; do tries=$((tries + 1)); [ $tries -lt 300 ] || { $shim logs web; exit 1; }; sleep 0.1; done
$shim stop -t 1 web >/dev/null || :
$shim rm -f web >/dev/null
"$IMGTOOL" --root "$PLACE/store" unbundle "$bundle"
"#;

fn serve(place: &Place) -> String {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", RUN]).stdin(Stdio::null());
    command.env("TARE_TEST", &place.id).env("PLACE", &place.dir);
    command.env("IMGTOOL", programs::ours("imgtool")).env("SHIM", programs::ours("shim"));
    command.env("RUNTIME", &Runtime::under_test().binary);
    command::run(&mut command, &Files::new(&place.dir, "served")).ok().stdout
}

#[test]
fn a_flask_application_is_built_published_asked_and_built_again() {
    let tar = match image::flask() {
        Ok(tar) => tar,
        Err(why) => integration::skip!("{why}"),
    };
    let place = Place::new();
    let context = place.dir.join("context");
    fs::create_dir(&context).unwrap();
    fs::write(context.join("app.py"), APP).unwrap();
    fs::write(context.join("requirements.txt"), "flask\n").unwrap();
    fs::write(context.join("Dockerfile"), DOCKERFILE).unwrap();
    let tar = tar.to_str().unwrap();
    let import = ["import", "--quiet", "--compression", "none", "-c", "ENV PYTHONUNBUFFERED=1", tar, "python"];
    place.ours("imgtool", &import).ok();
    let build = || {
        let runtime = Runtime::under_test().binary.to_str().unwrap();
        let args = ["build", "--progress", "plain", "-t", "flask-app", "--runtime", runtime];
        place.ours("imgtool", &[&args[..], &[context.to_str().unwrap()]].concat()).ok().stderr
    };
    let first = build();
    assert!(first.contains("flask is there for flask"), "{first}");
    assert_eq!(serve(&place), "Hello, World!\n");
    fs::write(context.join("app.py"), APP.replace("World", "again")).unwrap();
    let second = build();
    assert_eq!(second.matches("CACHED").count(), 3, "all but the last copy: {second}");
    assert!(second.contains("/app.py changed"), "{second}");
    assert_eq!(serve(&place), "Hello, again!\n");
}
