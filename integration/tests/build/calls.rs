//! What can be told of a Dockerfile without building it.

use std::fs;

use serde_json::Value;

use crate::Yard;

const DOCKERFILE: &str = "\
# VERSION says which one
ARG VERSION=9
FROM base AS tools
# JOBS is how many at a time
ARG JOBS=4
RUN --mount=type=secret,id=key,required=true --mount=type=cache,target=/var/cache make
FROM base as aside
MAINTAINER me
CMD echo aside
# app is what people run
FROM base AS app
ARG PLACE=/opt/$BASE
ARG VERSION
COPY --from=tools /x /
RUN --mount=type=ssh fetch
";

#[test]
fn a_target_says_what_it_can_be_given_and_nothing_is_built() {
    let yard = Yard::new();
    let out = yard.build(DOCKERFILE, &["--call=outline", "--build-arg", "JOBS=7"]).ok();
    let want = "\
TARGET:      app
DESCRIPTION: is what people run

BUILD ARG   VALUE    DESCRIPTION
VERSION     9        says which one
JOBS        7        is how many at a time
PLACE       /opt/1

SECRET   REQUIRED
key      true

SSH       REQUIRED
default

CACHE
/var/cache
";
    assert_eq!(out.stdout, want);
    assert_eq!(yard.place.ours("imgtool", &["images", "-q", "app"]).ok().stdout, "", "nothing is built");

    let record = yard.place.dir.join("record");
    let args = ["--call=outline,format=json", "--target", "tools", "--metadata-file", record.to_str().unwrap()];
    let told: Value = serde_json::from_str(&yard.build(DOCKERFILE, &args).ok().stdout).unwrap();
    assert_eq!((told["name"].as_str(), told["args"][0]["name"].as_str()), (Some("tools"), Some("JOBS")), "{told}");
    assert_eq!(told["args"][0]["location"]["ranges"][0]["start"]["line"], 5);
    assert_eq!(told["secrets"][0]["required"], true);
    assert!(told["ssh"].is_null(), "{told}");
    let record: Value = serde_json::from_str(&fs::read_to_string(record).unwrap()).unwrap();
    assert_eq!((&record["result.json"], record["version"].as_str()), (&told, Some("1.0.0")));

    let out = yard.build(DOCKERFILE, &["--call=targets"]).ok();
    assert_eq!(out.stdout, "TARGET        DESCRIPTION\ntools\naside\napp (default) is what people run\n");
    let told = yard.build(DOCKERFILE, &["--call", "targets,format=json"]).ok().stdout;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["targets"][2]["default"], &told["targets"][0]["default"]), (&Value::Bool(true), &Value::Null));
    // Neither needs what a build would.
    let out =
        yard.build("FROM no-such-image AS one\nCOPY --from=later / /\nFROM scratch AS later\n", &["--call=targets"]);
    assert_eq!(out.ok().stdout, "TARGET          DESCRIPTION\none\nlater (default)\n");
    assert!(yard.build(DOCKERFILE, &["--call=subrequests.describe"]).ok().stdout.contains("\noutline "));
}

#[test]
fn a_check_is_of_all_targets_or_of_one_and_is_told_to_programs_too() {
    let yard = Yard::new();
    let rules = |args: &[&str]| {
        let out = yard.build(DOCKERFILE, args);
        let told: Value = serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out}"));
        let rules = told["warnings"].as_array().unwrap().iter();
        let rules: Vec<String> = rules.map(|w| w["ruleName"].as_str().unwrap().to_owned()).collect();
        (out.code, rules, told)
    };
    let (code, all, told) = rules(&["--call=check,format=json"]);
    assert_eq!(
        (code, all),
        (1, ["FromAsCasing", "MaintainerDeprecated", "JSONArgsRecommended"].map(str::to_owned).to_vec())
    );
    let first = &told["warnings"][0];
    assert_eq!(first["location"]["ranges"][0]["start"]["line"], 7, "{first}");
    assert_eq!(first["url"], "https://docs.docker.com/go/dockerfile/rule/from-as-casing/");
    assert_eq!(told["sources"][0]["filename"], "Dockerfile");
    // What is not part of the target is judged by how it is written, and not by what it would do.
    let (_, of_app, _) = rules(&["--call=check,format=json", "--target", "app"]);
    assert_eq!(of_app, ["FromAsCasing", "MaintainerDeprecated"]);
    assert_eq!(rules(&["--call=check,format=json,ignorestatus=true"]).0, 0);
    // The last of the two flags counts.
    let out = yard.build(DOCKERFILE, &["--call=targets", "--check"]);
    assert!(
        out.code == 1 && out.stdout.starts_with("Check complete, 3 warnings have been found!\n\nWARNING: "),
        "{out}"
    );
    assert!(yard.build(DOCKERFILE, &["--check", "--call=targets"]).ok().stdout.starts_with("TARGET"));
    let out = yard.build(DOCKERFILE, &["--call=outlines"]);
    assert!(out.code == 2 && out.stderr.contains("did you mean outline"), "{out}");
    // A build tells of what it builds.
    let out = yard.build(DOCKERFILE, &["--build-arg", "X=1", "--target", "tools", "--secret", "id=key,env=PATH"]);
    assert!(out.stderr.contains("FromAsCasing") && !out.stderr.contains("JSONArgsRecommended"), "{out}");
}
