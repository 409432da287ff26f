//! `--health-*`: what the image says of its health check, changed, as an annotation for whoever runs such checks.

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::time::go_duration;

/// The annotation: Docker's `Healthcheck` object as JSON, durations in nanoseconds.
pub(super) const ANNOTATION: &str = "org.tare.healthcheck";

/// The options.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct HealthArgs {
    /// Command that checks the container's health, run by its shell
    #[arg(long = "health-cmd", value_name = "CMD")]
    cmd: Option<String>,
    /// Time between two checks, as 30s
    #[arg(long = "health-interval", value_name = "TIME", value_parser = parse_duration)]
    interval: Option<u64>,
    /// Time that one check may take
    #[arg(long = "health-timeout", value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<u64>,
    /// Time in which failures do not count
    #[arg(long = "health-start-period", value_name = "TIME", value_parser = parse_duration)]
    start_period: Option<u64>,
    /// Time between two checks in the start period
    #[arg(long = "health-start-interval", value_name = "TIME", value_parser = parse_duration)]
    start_interval: Option<u64>,
    /// Failures in a row that mean unhealthy
    #[arg(long = "health-retries", value_name = "N")]
    retries: Option<u32>,
    /// No health check, whatever the image says
    #[arg(long, conflicts_with_all = ["cmd", "interval", "timeout", "start_period", "start_interval", "retries"])]
    no_healthcheck: bool,
}

impl HealthArgs {
    /// The check that holds; `None`: there is none.
    pub(super) fn over(&self, image: Option<&Value>) -> Option<Value> {
        if self.no_healthcheck {
            return None;
        }
        let mut check: Map<String, Value> = image.and_then(Value::as_object).cloned().unwrap_or_default();
        if let Some(cmd) = &self.cmd {
            check.insert("Test".into(), json!(["CMD-SHELL", cmd]));
        }
        let times = [
            ("Interval", self.interval),
            ("Timeout", self.timeout),
            ("StartPeriod", self.start_period),
            ("StartInterval", self.start_interval),
        ];
        for (key, value) in times {
            if let Some(value) = value {
                check.insert(key.into(), json!(value));
            }
        }
        if let Some(retries) = self.retries {
            check.insert("Retries".into(), json!(retries));
        }
        let test = check.get("Test").and_then(Value::as_array).filter(|test| !test.is_empty())?;
        (test[0] != "NONE").then_some(Value::Object(check))
    }
}

fn parse_duration(text: &str) -> Result<u64> {
    go_duration(text)
        .ok_or_else(|| Error::malformed(format!("{text:?}: want a time such as 30s, 1m30s, 1.5s or 500ms")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_check_is_laid_over_the_images() {
        let image = json!({"Test": ["CMD", "x"], "Interval": 5, "Retries": 2});
        let plain = HealthArgs::default();
        assert_eq!(plain.over(Some(&image)), Some(image.clone()));
        assert_eq!(plain.over(None), None);
        assert_eq!(plain.over(Some(&json!({"Test": ["NONE"]}))), None);
        let asked = HealthArgs { cmd: Some("y".into()), interval: Some(7), ..HealthArgs::default() };
        assert_eq!(asked.over(Some(&image)), Some(json!({"Test": ["CMD-SHELL", "y"], "Interval": 7, "Retries": 2})));
        assert_eq!(HealthArgs { no_healthcheck: true, ..HealthArgs::default() }.over(Some(&image)), None);
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(parse_duration("1m30s").unwrap(), 90_000_000_000);
        assert_eq!(parse_duration("500ms").unwrap(), 500_000_000);
        assert_eq!(parse_duration("0.5s").unwrap(), 500_000_000);
        assert_eq!(parse_duration("1h1.5s").unwrap(), 3_601_500_000_000);
        for bad in ["", "5", "s", "5x", ".s", "1.2.3s", "-1s", "9999999999h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
