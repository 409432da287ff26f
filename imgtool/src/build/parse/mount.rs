//! `RUN --mount=KEY=VALUE,...`.

use crate::build::source::did_you_mean;
use crate::bundle::parse_size;
use crate::error::{Error, Result, Step};

/// What is mounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum MountKind {
    /// A directory or file of the context, a stage or an image.
    #[default]
    Bind,
    /// A directory that stays from build to build.
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

/// Who may use a cache at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sharing {
    #[default]
    Shared,
    /// Each user at a time gets one of its own.
    Private,
    /// The second waits for the first.
    Locked,
}

/// One `--mount`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) kind: MountKind,
    pub(crate) from: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) target: Option<String>,
    pub(crate) read_only: bool,
    /// Bytes of a tmpfs.
    pub(crate) size: Option<u64>,
    pub(crate) id: Option<String>,
    pub(crate) sharing: Sharing,
    pub(crate) required: bool,
    /// The environment variable that a secret becomes.
    pub(crate) env: Option<String>,
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "required",
    "size",
    "id",
    "sharing",
    "mode",
    "uid",
    "gid",
    "env",
];

impl Mount {
    /// Reads the value of a flag; `expand` puts in variables.
    pub(crate) fn parse(text: &str, expand: &dyn Fn(&str) -> Result<String>) -> Result<Self> {
        Self::read(text, expand).with(|| format!("--mount={text}"))
    }

    /// The secret that is meant: by its id, or by the last part of where it goes.
    pub(crate) fn secret_id(&self) -> Option<String> {
        let last = |path: &String| path.rsplit('/').next().map(str::to_owned);
        self.id.clone().or_else(|| self.source.clone()).or_else(|| self.target.as_ref().and_then(last))
    }

    fn read(text: &str, expand: &dyn Fn(&str) -> Result<String>) -> Result<Self> {
        let bad = |text: String| Error::malformed(text);
        let mut fields = Vec::new();
        for field in csv(text)? {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (field.as_str(), None),
            };
            let key = key.to_ascii_lowercase();
            if key == "from" && value.is_some_and(|value| value.contains('$')) {
                return Err(bad("from takes no variables: give the image a name by FROM ... AS NAME".to_owned()));
            }
            fields.push((key, value.map(expand).transpose()?));
        }
        let mut mount = Self::default();
        let mut access = None;
        let mut sharing = None;
        // The type first: it says which of the others there may be.
        if let Some((_, Some(kind))) = fields.iter().rev().find(|(key, _)| key == "type") {
            mount.kind = match kind.to_ascii_lowercase().as_str() {
                "bind" => MountKind::Bind,
                "cache" => MountKind::Cache,
                "tmpfs" => MountKind::Tmpfs,
                "secret" => MountKind::Secret,
                "ssh" => MountKind::Ssh,
                other => {
                    let hint = did_you_mean(other, ["bind", "cache", "tmpfs", "secret", "ssh"]);
                    return Err(bad(format!("type={other}{hint}: want bind, cache, tmpfs, secret or ssh")));
                }
            };
        }
        for (key, value) in fields {
            let wanted = || bad(format!("{key} lacks its value: {key}=VALUE"));
            let flag = |value: &Option<String>| match value.as_deref() {
                None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
                Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
                Some(other) => Err(bad(format!("{key}={other}: want true or false"))),
            };
            let number = |value: Option<String>, radix: u32, what: &str| {
                let text = value.ok_or_else(wanted)?;
                u32::from_str_radix(&text, radix).map_err(|_| bad(format!("{key}={text}: want {what}")))
            };
            match key.as_str() {
                "type" if value.is_some() => {}
                "from" => mount.from = Some(value.ok_or_else(wanted)?).filter(|from| !from.is_empty()),
                "source" | "src" => mount.source = Some(value.ok_or_else(wanted)?),
                "target" | "dst" | "destination" => mount.target = Some(value.ok_or_else(wanted)?),
                "readonly" | "ro" => access = Some(flag(&value)?),
                "readwrite" | "rw" => access = Some(!flag(&value)?),
                "required" if matches!(mount.kind, MountKind::Secret | MountKind::Ssh) => {
                    mount.required = flag(&value)?;
                }
                "size" if mount.kind == MountKind::Tmpfs => {
                    mount.size = Some(parse_size(&value.ok_or_else(wanted)?).at("size")?);
                }
                "id" => mount.id = Some(value.ok_or_else(wanted)?),
                "sharing" => {
                    sharing = Some(match value.ok_or_else(wanted)?.to_ascii_lowercase().as_str() {
                        "shared" => Sharing::Shared,
                        "private" => Sharing::Private,
                        "locked" => Sharing::Locked,
                        other => return Err(bad(format!("sharing={other}: want shared, private or locked"))),
                    });
                }
                "mode" => mount.mode = Some(number(value, 8, "an octal number, as 0644")? & 0o7777),
                "uid" => mount.uid = Some(number(value, 10, "a number")?),
                "gid" => mount.gid = Some(number(value, 10, "a number")?),
                "env" => mount.env = Some(value.ok_or_else(wanted)?),
                // Podman's, for SELinux: what is mounted here has no label of its own.
                "z" if value.is_none() && matches!(mount.kind, MountKind::Bind | MountKind::Cache) => {}
                "type" => return Err(wanted()),
                "required" | "size" => return Err(bad(format!("{key} does not go with this type"))),
                other => {
                    return Err(bad(format!("unknown key {other:?}{}", did_you_mean(other, KEYS))));
                }
            }
        }
        mount.check(access, sharing)?;
        Ok(mount)
    }

    fn check(&mut self, access: Option<bool>, sharing: Option<Sharing>) -> Result<()> {
        let bad = |text: &str| Err(Error::malformed(text));
        let owned = self.mode.is_some() || self.uid.is_some() || self.gid.is_some();
        if owned && matches!(self.kind, MountKind::Bind | MountKind::Tmpfs) {
            return bad("mode, uid and gid go with cache, secret and ssh only");
        }
        self.read_only = access.unwrap_or(!matches!(self.kind, MountKind::Cache | MountKind::Tmpfs));
        if sharing.is_some() && self.kind != MountKind::Cache {
            return bad("sharing goes with cache only");
        }
        self.sharing = sharing.unwrap_or_default();
        if self.env.is_some() && self.kind != MountKind::Secret {
            return bad("env goes with secret only");
        }
        match self.kind {
            MountKind::Secret => {
                if self.from.is_some() {
                    return bad("a secret comes from the command line (--secret): it has no from");
                }
                if self.source.is_some() && self.id.is_some() {
                    return bad("a secret is named by id or by source, not both");
                }
                if self.source.is_none() && self.id.is_none() && self.target.is_none() {
                    return bad("which secret? give id=NAME or target=PATH");
                }
            }
            MountKind::Bind | MountKind::Cache | MountKind::Tmpfs if self.target.is_none() => {
                return bad("where to? give target=PATH");
            }
            _ => {}
        }
        Ok(())
    }
}

/// The fields of one line of CSV: separated by commas, quoted by double quotes.
pub(crate) fn csv(text: &str) -> Result<Vec<String>> {
    let mut fields = vec![String::new()];
    let mut chars = text.chars().peekable();
    let mut quoted = false;
    while let Some(c) = chars.next() {
        let field = fields.last_mut().ok_or_else(|| Error::other("no field"))?;
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => fields.push(String::new()),
            c => field.push(c),
        }
    }
    if quoted {
        return Err(Error::malformed("a double quote is not closed"));
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Mount> {
        Mount::parse(text, &|value| Ok(value.replace("$HOME", "/root")))
    }

    #[test]
    fn each_type_has_its_keys() {
        let mount = parse("from=x,src=/a,target=/b").unwrap();
        assert!(mount.kind == MountKind::Bind && mount.read_only && mount.from.as_deref() == Some("x"));
        let mount = parse("type=cache,target=$HOME/.cache,sharing=locked,mode=0700,uid=5").unwrap();
        assert!(!mount.read_only && mount.sharing == Sharing::Locked && mount.mode == Some(0o700));
        assert_eq!(mount.target.as_deref(), Some("/root/.cache"));
        assert_eq!(parse("type=tmpfs,dst=/t,size=1m").unwrap().size, Some(1 << 20));
        assert!(parse("type=secret,id=s,required").unwrap().required);
        assert_eq!(parse("type=secret,id=s,env=TOKEN").unwrap().env.as_deref(), Some("TOKEN"));
        assert!(!parse("target=/b,rw").unwrap().read_only);
        assert_eq!(csv("\"a,\"\"b\"\"\",c").unwrap(), ["a,\"b\"", "c"]);
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for (text, why) in [
            ("type=bnd,target=/x", "did you mean bind"),
            ("type=bind", "target"),
            ("type=cache,target=/x,required=true", "does not go with"),
            ("target=/x,size=1m", "does not go with"),
            ("type=secret", "which secret"),
            ("type=secret,id=a,src=b", "not both"),
            ("type=secret,id=a,from=b", "no from"),
            ("target=/x,mode=0644", "go with cache"),
            ("target=/x,sharing=locked", "cache only"),
            ("from=$X,target=/x", "no variables"),
            ("target=/x,tagret=/y", "did you mean target"),
            ("target", "lacks its value"),
            ("type=cache,target=/x,mode=9", "octal"),
            ("\"target=/x", "not closed"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
