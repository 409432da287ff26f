//! Health checks: a command that is run in the container now and then, and what its results come to.
//!
//! The monitor only keeps the time ([`super::monitor`]). Each check is a program of its own ([`super::probe`]), so that
//! nothing of it stays in the monitor's memory.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cli::HealthArgs;
use crate::error::{Context, Error, Result};

/// The annotation by which image tools carry an image's check: Docker's `Healthcheck` object as JSON.
const ANNOTATION: &str = "org.tare.healthcheck";
/// The shortest of its times, in nanoseconds.
const SHORTEST: u64 = 1_000_000;
/// How many results are kept.
const KEPT: usize = 5;
/// How much of a check's output is kept, in bytes.
pub(super) const MAX_OUTPUT: usize = 4096;

/// A health check as Docker's images have it, durations in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Health {
    /// What is run: `CMD` and words, or `CMD-SHELL` and a line for a shell.
    #[serde(alias = "Test")]
    pub(crate) test: Vec<String>,
    #[serde(default, alias = "Interval")]
    interval: u64,
    #[serde(default, alias = "Timeout")]
    timeout: u64,
    #[serde(default, alias = "StartPeriod")]
    start_period: u64,
    #[serde(default, alias = "StartInterval")]
    start_interval: u64,
    #[serde(default, alias = "Retries")]
    retries: u32,
}

/// What a container's checks have come to: `health.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Condition {
    pub(crate) status: Word,
    /// Failures since the last success.
    pub(crate) failing_streak: u32,
    /// The last results, the newest last.
    pub(crate) log: Vec<Outcome>,
}

/// A condition in one word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Word {
    #[default]
    Starting,
    Healthy,
    Unhealthy,
}

impl Word {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// RFC 3339.
    pub(crate) start: String,
    /// RFC 3339.
    pub(crate) end: String,
    /// 0 if the container is well; -1 if the check could not be run or took too long.
    pub(crate) exit_code: i32,
    pub(crate) output: String,
}

impl Health {
    /// The check that holds: the bundle's, changed by the command line. `None`: there is none.
    pub(crate) fn of(config: &Value, flags: &HealthArgs) -> Result<Option<Self>> {
        if flags.no_healthcheck {
            return Ok(None);
        }
        let carried = config["annotations"][ANNOTATION].as_str().filter(|text| !text.is_empty());
        let carried = carried.map(serde_json::from_str::<Self>).transpose();
        let carried = carried.context(|| format!("annotation {ANNOTATION}"))?;
        let nothing = Self { test: vec![], interval: 0, timeout: 0, start_period: 0, start_interval: 0, retries: 0 };
        let mut health = carried.unwrap_or(nothing);
        if let Some(line) = &flags.health_cmd {
            health.test = vec!["CMD-SHELL".to_owned(), line.clone()];
        }
        let set = |field: &mut u64, flag: Option<GoDuration>| *field = flag.map_or(*field, |flag| flag.0);
        set(&mut health.interval, flags.health_interval);
        set(&mut health.timeout, flags.health_timeout);
        set(&mut health.start_period, flags.health_start_period);
        set(&mut health.start_interval, flags.health_start_interval);
        health.retries = flags.health_retries.unwrap_or(health.retries);
        health.check_times()?;
        match health.test.first().map(String::as_str) {
            None if flags.names_any() => Err(Error::invalid("there is no health check to change: give --health-cmd")),
            None | Some("" | "NONE") => Ok(None),
            Some("CMD" | "CMD-SHELL") if health.test.len() > 1 => Ok(Some(health)),
            Some(_) => {
                Err(Error::invalid(format!("health check {:?}: it is CMD or CMD-SHELL and a command", health.test)))
            }
        }
    }

    /// Refuses times that would keep the container busy with nothing but checks, in Docker's words. 0 is the default.
    fn check_times(&self) -> Result<()> {
        let times = [
            ("Interval", self.interval),
            ("Timeout", self.timeout),
            ("StartPeriod", self.start_period),
            ("StartInterval", self.start_interval),
        ];
        match times.iter().find(|(_, nanoseconds)| (1..SHORTEST).contains(nanoseconds)) {
            Some((name, _)) => Err(Error::invalid(format!("{name} in Healthcheck cannot be less than 1ms"))),
            None => Ok(()),
        }
    }

    /// The words to run in the container.
    pub(crate) fn command(&self) -> Vec<String> {
        let words = &self.test[1..];
        if self.test[0] == "CMD" {
            return words.to_vec();
        }
        ["/bin/sh", "-c"].into_iter().map(str::to_owned).chain([words.join(" ")]).collect()
    }

    /// Between the end of one check and the next, in a container that was started this long ago.
    pub(crate) fn interval(&self, age: Duration, word: Word) -> Duration {
        let starting = word == Word::Starting && age < self.start_period();
        match (starting, self.start_interval) {
            (true, 0) => Duration::from_secs(5).min(self.usual_interval()),
            (true, nanoseconds) => Duration::from_nanos(nanoseconds),
            (false, _) => self.usual_interval(),
        }
    }

    fn usual_interval(&self) -> Duration {
        or_default(self.interval, Duration::from_secs(30))
    }

    /// How long a check may take.
    pub(crate) fn timeout(&self) -> Duration {
        or_default(self.timeout, Duration::from_secs(30))
    }

    fn start_period(&self) -> Duration {
        Duration::from_nanos(self.start_period)
    }

    fn retries(&self) -> u32 {
        if self.retries == 0 { 3 } else { self.retries }
    }
}

fn or_default(nanoseconds: u64, default: Duration) -> Duration {
    if nanoseconds == 0 { default } else { Duration::from_nanos(nanoseconds) }
}

impl Condition {
    /// Takes a result into account, of a container that was started this long ago.
    pub(crate) fn add(&mut self, outcome: Outcome, health: &Health, age: Duration) {
        if outcome.exit_code == 0 {
            (self.failing_streak, self.status) = (0, Word::Healthy);
        } else if self.status != Word::Starting || age >= health.start_period() {
            self.failing_streak += 1;
            if self.failing_streak >= health.retries() {
                self.status = Word::Unhealthy;
            }
        }
        self.log.push(outcome);
        if self.log.len() > KEPT {
            self.log.drain(..self.log.len() - KEPT);
        }
    }
}

/// A duration as Go writes it, in nanoseconds: `30s`, `1m30s`, `1.5h`, `100ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GoDuration(u64);

impl std::str::FromStr for GoDuration {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::invalid(format!("{text:?}: it is a duration such as 30s, 1m30s or 500ms"));
        let units = [("ms", 1e6), ("us", 1e3), ("µs", 1e3), ("ns", 1.0), ("h", 3.6e12), ("m", 6e10), ("s", 1e9)];
        let (mut rest, mut total) = (text, 0.0);
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
            let number: f64 = rest[..end].parse().map_err(|_| wrong())?;
            let (unit, factor) = units.iter().find(|(unit, _)| rest[end..].starts_with(unit)).ok_or_else(wrong)?;
            total += number * factor;
            rest = &rest[end + unit.len()..];
        }
        // What Go's own durations hold.
        let sound = !text.is_empty() && total < 9.2e18;
        if sound { Ok(Self(total as u64)) } else { Err(wrong()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(check: &str) -> Value {
        json!({"annotations": {"org.tare.healthcheck": check}})
    }

    #[test]
    fn the_command_line_is_laid_over_the_bundle() {
        let image = config(r#"{"Test":["CMD","probe","-q"],"Interval":5000000000,"Retries":2,"Future":1}"#);
        let plain = Health::of(&image, &HealthArgs::default()).unwrap().unwrap();
        assert_eq!(plain.command(), ["probe", "-q"]);
        assert_eq!(plain.interval(Duration::MAX, Word::Healthy), Duration::from_secs(5));
        assert_eq!((plain.retries(), plain.timeout()), (2, Duration::from_secs(30)));
        let flags = HealthArgs {
            health_cmd: Some("test -e /x".to_owned()),
            health_interval: Some("1m30s".parse().unwrap()),
            ..HealthArgs::default()
        };
        let changed = Health::of(&image, &flags).unwrap().unwrap();
        assert_eq!(changed.command(), ["/bin/sh", "-c", "test -e /x"]);
        assert_eq!(changed.interval(Duration::MAX, Word::Healthy), Duration::from_secs(90));
        let none = HealthArgs { no_healthcheck: true, ..HealthArgs::default() };
        assert_eq!(Health::of(&image, &none).unwrap(), None);
    }

    #[test]
    fn no_check_and_nonsense() {
        let flags = HealthArgs::default();
        for without in [json!({}), config(""), config(r#"{"Test":["NONE"]}"#), config(r#"{"Test":[]}"#)] {
            assert_eq!(Health::of(&without, &flags).unwrap(), None, "{without}");
        }
        for wrong in ["x", "{}", r#"{"Test":["CMD"]}"#, r#"{"Test":["curl","x"]}"#, r#"{"Test":7}"#] {
            assert!(Health::of(&config(wrong), &flags).is_err(), "{wrong}");
        }
        let change = HealthArgs { health_retries: Some(1), ..HealthArgs::default() };
        assert!(Health::of(&json!({}), &change).unwrap_err().text().contains("--health-cmd"));
    }

    #[test]
    fn times_too_short_to_be_meant_are_refused() {
        let config = |name: &str, time: u64| config(&json!({"Test": ["CMD", "x"], name: time}).to_string());
        for name in ["Interval", "Timeout", "StartPeriod", "StartInterval"] {
            for short in [1, 999_999] {
                let error = Health::of(&config(name, short), &HealthArgs::default()).unwrap_err();
                assert_eq!(error.text(), format!("{name} in Healthcheck cannot be less than 1ms"));
            }
            for fine in [0, 1_000_000] {
                assert!(Health::of(&config(name, fine), &HealthArgs::default()).unwrap().is_some(), "{name} {fine}");
            }
        }
        // What holds counts, not what it is laid over.
        let longer = HealthArgs { health_interval: Some("1s".parse().unwrap()), ..HealthArgs::default() };
        assert!(Health::of(&config("Interval", 1), &longer).unwrap().is_some());
        let shorter = HealthArgs { health_interval: Some("999us".parse().unwrap()), ..HealthArgs::default() };
        assert!(Health::of(&config("Interval", 0), &shorter).is_err());
    }

    #[test]
    fn results_come_to_a_condition() {
        let health = r#"{"test":["CMD","x"],"retries":2,"start_period":10000000000}"#;
        let health: Health = serde_json::from_str(health).unwrap();
        let moment = |seconds: u64| Duration::from_secs(seconds);
        let mut condition = Condition::default();
        for (code, age, word, streak) in [
            (1, 1, Word::Starting, 0),
            (1, 11, Word::Starting, 1),
            (1, 12, Word::Unhealthy, 2),
            (0, 13, Word::Healthy, 0),
            (-1, 14, Word::Healthy, 1),
            (1, 15, Word::Unhealthy, 2),
        ] {
            let outcome = Outcome { start: String::new(), end: String::new(), exit_code: code, output: String::new() };
            condition.add(outcome, &health, moment(age));
            assert_eq!((condition.status, condition.failing_streak), (word, streak), "at {age}");
        }
        assert_eq!(condition.log.len(), KEPT);
        assert_eq!(health.interval(moment(1), Word::Starting), moment(5));
        assert_eq!(health.interval(moment(11), Word::Starting), moment(30));
        // Once it is well, it is checked as usual.
        assert_eq!(health.interval(moment(1), Word::Healthy), moment(30));
    }

    #[test]
    fn durations() {
        for (text, nanoseconds) in [("30s", 30_000_000_000), ("1m30s", 90_000_000_000), ("1.5ms", 1_500_000), ("0s", 0)]
        {
            assert_eq!(text.parse::<GoDuration>().unwrap().0, nanoseconds, "{text}");
        }
        for text in ["", "30", "s", "1x", "-1s", "1..5s", "999999999h"] {
            assert!(text.parse::<GoDuration>().is_err(), "{text}");
        }
    }

    #[test]
    fn fuzz_shim_health() {
        let seeds = [r#"{"Test":["CMD","probe","-q"],"Interval":5000000000,"Retries":2}"#, "1m30s"];
        let seeds = seeds.map(|seed| seed.as_bytes().to_vec());
        crate::fuzz::fuzz("shim_health", &seeds, |input| {
            let text = String::from_utf8_lossy(input);
            if let Ok(Some(health)) = Health::of(&config(&text), &HealthArgs::default()) {
                assert!(!health.command().is_empty() && health.timeout() > Duration::ZERO);
            }
            let _: Result<GoDuration> = text.parse();
        });
    }
}
