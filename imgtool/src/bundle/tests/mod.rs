//! Bundles: what is written, and the real thing.

mod mounted;
mod written;

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}
