//! Warnings: what builds, and is probably not meant. The rules and their names are those of BuildKit's checks.

mod checks;
mod walk;

use serde_json::json;

pub(crate) use checks::{Known, Subject, check};

use super::source::{Source, Span};
use crate::error::{Error, Result};

/// A rule, and what its page in Docker's documentation is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rule {
    StageNameCasing,
    FromAsCasing,
    NoEmptyContinuation,
    ConsistentInstructionCasing,
    DuplicateStageName,
    ReservedStageName,
    JSONArgsRecommended,
    MaintainerDeprecated,
    UndefinedArgInFrom,
    WorkdirRelativePath,
    UndefinedVar,
    MultipleInstructionsDisallowed,
    LegacyKeyValueFormat,
    InvalidBaseImagePlatform,
    RedundantTargetPlatform,
    SecretsUsedInArgOrEnv,
    InvalidDefaultArgInFrom,
    FromPlatformFlagConstDisallowed,
    CopyIgnoredFile,
    InvalidDefinitionDescription,
    ExposeProtoCasing,
    ExposeInvalidFormat,
}

impl Rule {
    fn name(self) -> String {
        format!("{self:?}")
    }

    fn page(self) -> &'static str {
        match self {
            Self::StageNameCasing => "stage-name-casing",
            Self::FromAsCasing => "from-as-casing",
            Self::NoEmptyContinuation => "no-empty-continuation",
            Self::ConsistentInstructionCasing => "consistent-instruction-casing",
            Self::DuplicateStageName => "duplicate-stage-name",
            Self::ReservedStageName => "reserved-stage-name",
            Self::JSONArgsRecommended => "json-args-recommended",
            Self::MaintainerDeprecated => "maintainer-deprecated",
            Self::UndefinedArgInFrom => "undefined-arg-in-from",
            Self::WorkdirRelativePath => "workdir-relative-path",
            Self::UndefinedVar => "undefined-var",
            Self::MultipleInstructionsDisallowed => "multiple-instructions-disallowed",
            Self::LegacyKeyValueFormat => "legacy-key-value-format",
            Self::InvalidBaseImagePlatform => "invalid-base-image-platform",
            Self::RedundantTargetPlatform => "redundant-target-platform",
            Self::SecretsUsedInArgOrEnv => "secrets-used-in-arg-or-env",
            Self::InvalidDefaultArgInFrom => "invalid-default-arg-in-from",
            Self::FromPlatformFlagConstDisallowed => "from-platform-flag-const-disallowed",
            Self::CopyIgnoredFile => "copy-ignored-file",
            Self::InvalidDefinitionDescription => "invalid-definition-description",
            Self::ExposeProtoCasing => "expose-proto-casing",
            Self::ExposeInvalidFormat => "expose-invalid-format",
        }
    }

    /// A matter of how it is written, in whatever stage: the others are of what a build of the stage would do.
    fn is_of_writing(self) -> bool {
        matches!(self, Self::MaintainerDeprecated | Self::LegacyKeyValueFormat)
    }

    /// Told only when it is asked for.
    fn is_experimental(self) -> bool {
        self == Self::InvalidDefinitionDescription
    }
}

/// One warning.
#[derive(Clone, Debug)]
pub(crate) struct Warning {
    pub(crate) rule: Rule,
    pub(crate) span: Span,
    pub(crate) text: String,
}

impl Warning {
    /// As `docker build --check` prints it.
    pub(crate) fn render(&self, source: &Source) -> String {
        format!("WARNING: {} - {}\n{}\n\n{}", self.rule.name(), self.url(), self.text, source.excerpt(self.span))
    }

    /// The object of `--call=check,format=json`. Columns count from 0 there.
    pub(crate) fn json(&self) -> serde_json::Value {
        let mut location = super::outline::location(self.span);
        location["ranges"][0]["start"]["character"] = json!(self.span.at.column.saturating_sub(1));
        json!({"ruleName": self.rule.name(), "url": self.url(), "detail": self.text, "location": location})
    }

    fn url(&self) -> String {
        format!("https://docs.docker.com/go/dockerfile/rule/{}/", self.rule.page())
    }
}

/// What `# check=skip=RULE,RULE;error=true;experimental=RULE` asks for.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    skip: Vec<String>,
    experimental: Vec<String>,
    /// Warnings end the build.
    pub(crate) error: bool,
}

impl Settings {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut settings = Self::default();
        for option in text.split(';').map(str::trim).filter(|option| !option.is_empty()) {
            let bad =
                || Error::malformed(format!("check={option}: want skip=RULE,..., experimental=RULE,... or error=true"));
            let (key, value) = option.split_once('=').ok_or_else(bad)?;
            let list = || value.split(',').map(|rule| rule.trim().to_owned()).collect();
            match key.trim() {
                "skip" => settings.skip = list(),
                "experimental" => settings.experimental = list(),
                "error" => settings.error = value.trim().parse().map_err(|_| bad())?,
                _ => return Err(bad()),
            }
        }
        Ok(settings)
    }

    fn tells(&self, rule: Rule) -> bool {
        let named = |list: &[String]| list.iter().any(|have| have == "all" || *have == rule.name());
        !named(&self.skip) && (!rule.is_experimental() || named(&self.experimental))
    }
}
