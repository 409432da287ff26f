//! The arguments of an instruction: flags, words, JSON lists, pairs, heredocs.

use super::super::env::Env;
use super::super::expand::Expander;
use super::{Args, Heredoc, Pair, Word};
use crate::error::{Error, Result};

/// Splits the text behind the keyword, which begins at byte `start`, into flags (`--name=value`) and where the rest begins.
pub(super) fn flags(text: &str, start: usize, escape: char) -> (Vec<Word>, usize) {
    let mut flags = Vec::new();
    let mut at = start;
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        if !text[at..].starts_with("--") {
            return (flags, at);
        }
        let mut word = String::new();
        let mut quote = None;
        let begin = at;
        let mut chars = text[at..].char_indices();
        let mut end = text.len();
        while let Some((offset, c)) = chars.next() {
            match c {
                c if quote.is_none() && c.is_whitespace() => {
                    end = begin + offset;
                    break;
                }
                '"' | '\'' if quote.is_none() => quote = Some(c),
                c if quote == Some(c) => quote = None,
                c if c == escape => word.extend(chars.next().map(|(_, c)| c)),
                c => word.push(c),
            }
        }
        at = end;
        if word == "--" {
            at += text[at..].len() - text[at..].trim_start().len();
            return (flags, at);
        }
        flags.push(Word { text: word, at: begin });
    }
}

/// The arguments in the form that the instruction `keyword` (in lower case) has them; the text begins at byte `at` of its
/// line.
pub(super) fn args(keyword: &str, text: &str, at: usize, escape: char) -> Result<Args> {
    let whole = |text: &str| if text.is_empty() { Vec::new() } else { vec![Word { text: text.to_owned(), at }] };
    let plain = |words| Ok(Args { words, ..Args::default() });
    match keyword {
        "env" | "label" => pairs(keyword, text, at, escape),
        "arg" => plain(shell_words(text, at, escape)),
        "from" | "expose" => plain(blank_separated(text, at)),
        "add" | "copy" | "volume" => match json(text, at)? {
            Some(args) => Ok(args),
            None => plain(blank_separated(text, at)),
        },
        "run" | "cmd" | "entrypoint" | "shell" => match json(text, at)? {
            Some(args) => Ok(args),
            None => plain(whole(text)),
        },
        "healthcheck" => {
            let end = text.find(char::is_whitespace).unwrap_or(text.len());
            let mut words = whole(&text[..end]);
            let rest = text[end..].trim_start();
            let start = at + text.len() - rest.len();
            if let Some(args) = json(rest, start)? {
                return Ok(Args { words: [words, args.words].concat(), ..args });
            }
            words.extend((!rest.is_empty()).then(|| Word { text: rest.to_owned(), at: start }));
            plain(words)
        }
        _ => plain(whole(text)),
    }
}

/// The exec form; `None` for what is no JSON list. A list of anything but strings is an error: nobody means that for the
/// shell.
fn json(text: &str, at: usize) -> Result<Option<Args>> {
    let text = text.trim_start();
    if !text.starts_with('[') {
        return Ok(None);
    }
    let Ok(list) = serde_json::from_str::<Vec<serde_json::Value>>(text) else { return Ok(None) };
    let string = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => Ok(Word { text, at }),
        other => Err(Error::malformed(format!("the JSON form takes a list of strings, and {other} is none"))),
    };
    let words = list.into_iter().map(string).collect::<Result<_>>()?;
    Ok(Some(Args { words, json: true, ..Args::default() }))
}

fn blank_separated(text: &str, at: usize) -> Vec<Word> {
    let is_blank = |c: char| matches!(c, ' ' | '\t' | '\x0b' | '\x0c' | '\r');
    let mut words = Vec::new();
    let mut start = None;
    for (offset, c) in text.char_indices().chain([(text.len(), ' ')]) {
        match (start, is_blank(c)) {
            (None, false) => start = Some(offset),
            (Some(begin), true) => {
                words.push(Word { text: text[begin..offset].to_owned(), at: at + begin });
                start = None;
            }
            _ => {}
        }
    }
    words
}

/// Words as a shell separates them; quotes and escapes stay, they are undone when variables are expanded.
fn shell_words(text: &str, at: usize, escape: char) -> Vec<Word> {
    let mut words = Vec::new();
    let mut word: Option<Word> = None;
    let mut quote = None;
    let mut chars = text.char_indices().peekable();
    while let Some((offset, c)) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            words.extend(word.take());
            continue;
        }
        let current = word.get_or_insert_with(|| Word { text: String::new(), at: at + offset });
        match c {
            '"' | '\'' if quote.is_none() => quote = Some(c),
            c if quote == Some(c) => quote = None,
            _ => {}
        }
        if c == escape && quote != Some('\'') {
            // At the very end it escapes nothing.
            let Some((_, next)) = chars.next() else { break };
            current.text.push(c);
            current.text.push(next);
        } else {
            current.text.push(c);
        }
    }
    words.extend(word.filter(|word| !word.text.is_empty()));
    words
}

/// `A=b C="d e"`, or the old form `A everything else`.
fn pairs(keyword: &str, text: &str, at: usize, escape: char) -> Result<Args> {
    let words = shell_words(text, at, escape);
    let Some(first) = words.first() else { return Ok(Args::default()) };
    let mut pairs = Vec::new();
    if first.text.contains('=') {
        for word in words {
            let (key, value) = word
                .text
                .split_once('=')
                .ok_or_else(|| Error::malformed(format!("{:?} has no =: want NAME=VALUE", word.text)))?;
            pairs.push(Pair { key: key.to_owned(), value: value.to_owned(), legacy: false, at: word.at });
        }
    } else {
        let keyword = keyword.to_uppercase();
        let blanks = [' ', '\t', '\x0b', '\x0c', '\r'];
        let (key, value) = text
            .split_once(blanks)
            .ok_or_else(|| Error::malformed(format!("{keyword} must have two arguments: {keyword} NAME=VALUE")))?;
        let value = value.trim_start_matches(blanks);
        pairs.push(Pair { key: key.to_owned(), value: value.to_owned(), legacy: true, at });
    }
    Ok(Args { pairs, ..Args::default() })
}

/// `[FD]<<[-]NAME`; `None` for any other word.
pub(crate) fn heredoc(word: &str) -> Option<Heredoc> {
    let (descriptor, rest) = word.split_once("<<")?;
    if !descriptor.bytes().all(|b| b.is_ascii_digit()) || rest.contains('<') {
        return None;
    }
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.trim_start();
    let how = Expander { keep_unset: true, ..Expander::new('\\') };
    let [name] = how.expand(rest, &Env::default()).ok()?.words.try_into().ok()?;
    let [raw]: [String; 1] =
        Expander { raw_quotes: true, ..how }.expand(rest, &Env::default()).ok()?.words.try_into().ok()?;
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    let expand = quotes(&name) == quotes(&raw);
    Some(Heredoc { name, expand, chomp, content: String::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(words: &[Word]) -> Vec<&str> {
        words.iter().map(|word| word.text.as_str()).collect()
    }

    #[test]
    fn flags_end_at_the_first_word_that_is_none() {
        let text = "--from=a  --chown=\"b c\" -- --src dst";
        let (found, rest) = flags(text, 0, '\\');
        assert_eq!(texts(&found), ["--from=a", "--chown=b c"]);
        assert_eq!((found[1].at, &text[rest..]), (10, "--src dst"));
        assert_eq!(flags("-x --y", 0, '\\').1, 0);
    }

    #[test]
    fn lists_are_json_or_words() {
        let of = |keyword: &str, text: &str| args(keyword, text, 0, '\\');
        let args = of("cmd", r#"["a", "b c"]"#).unwrap();
        assert!(args.json && texts(&args.words) == ["a", "b c"]);
        assert_eq!(texts(&of("run", "['a']").unwrap().words), ["['a']"]);
        assert_eq!(texts(&of("copy", "a  b\tc").unwrap().words), ["a", "b", "c"]);
        assert!(of("cmd", r#"["a", ["b"]]"#).unwrap_err().to_string().contains("list of strings"));
        let health = of("healthcheck", r#"CMD  ["x", "y"]"#).unwrap();
        assert!(health.json && texts(&health.words) == ["CMD", "x", "y"]);
        assert_eq!(texts(&of("arg", r#"A="b c" D\ e"#).unwrap().words), [r#"A="b c""#, r"D\ e"]);
    }

    #[test]
    fn pairs_of_both_forms() {
        let of = |text: &str| args("env", text, 0, '\\').map(|args| args.pairs);
        let pairs = of(r#"A=b C="d e""#).unwrap();
        assert_eq!((pairs[1].key.as_str(), pairs[1].value.as_str()), ("C", "\"d e\""));
        let pairs = of("A  b = c").unwrap();
        assert_eq!((pairs[0].value.as_str(), pairs[0].legacy), ("b = c", true));
        assert!(of("A").unwrap_err().to_string().contains("two arguments"));
        assert!(of("A=b C").unwrap_err().to_string().contains("NAME=VALUE"));
    }

    #[test]
    fn heredoc_words() {
        let doc = heredoc("<<-\"EOF\"").unwrap();
        assert!(doc.name == "EOF" && doc.chomp && !doc.expand);
        let doc = heredoc("3<<E").unwrap();
        assert!(doc.name == "E" && !doc.chomp && doc.expand);
        for none in ["<<<x", "<EOF", "x<<EOF", "<<", "<<a b"] {
            assert!(heredoc(none).is_none(), "{none}");
        }
    }
}
