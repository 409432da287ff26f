//! Samples, medians, and the table in Markdown.

use std::collections::BTreeMap;

/// Milliseconds by step and contender.
#[derive(Default)]
pub(crate) struct Samples(BTreeMap<(&'static str, String), Vec<f64>>);

impl Samples {
    /// Adds one measurement.
    pub(crate) fn add(&mut self, step: &'static str, who: &str, milliseconds: f64) {
        self.0.entry((step, who.to_owned())).or_default().push(milliseconds);
    }

    /// The middle of all measurements, if there are any.
    pub(crate) fn median(&self, step: &'static str, who: &str) -> Option<f64> {
        let mut all = self.0.get(&(step, who.to_owned()))?.clone();
        all.sort_by(f64::total_cmp);
        let middle = all.len() / 2;
        let pair = all.len().is_multiple_of(2).then(|| f64::midpoint(all[middle - 1], all[middle]));
        Some(pair.unwrap_or_else(|| all[middle]))
    }

    /// One row a step: medians of all, and how the first compares with each of the others.
    pub(crate) fn print(&self, steps: &[&'static str], who: &[String]) {
        let ours = &who[0];
        let mut head = format!("| ms | {} |", who.join(" | "));
        head.extend(who[1..].iter().map(|other| format!(" {ours} / {other} |")));
        let line = "|---|".to_owned() + &"---:|".repeat(2 * who.len() - 1);
        println!("{head}\n{line}");
        for step in steps {
            let mut row = format!("| {step} |");
            for name in who {
                row += &self.median(step, name).map_or_else(|| " - |".to_owned(), |m| format!(" {m:.2} |"));
            }
            for other in &who[1..] {
                let ratio = self.median(step, ours).zip(self.median(step, other)).map(|(a, b)| a / b);
                row += &ratio.map_or_else(|| " - |".to_owned(), |r| format!(" {r:.2} |"));
            }
            println!("{row}");
        }
    }
}
