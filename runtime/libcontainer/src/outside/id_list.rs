//! Lists of processors and memory nodes, as cpuset(7) writes them (`0-3,5`), and the bit masks that system calls take.

/// The largest number that is taken, runc's bound: what is larger is a mistake.
const MAX: u32 = 64 << 10;

/// A set of numbers, one bit each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct IdSet(Vec<u64>);

impl IdSet {
    /// Reads a list; blanks and empty elements are passed over.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(list: &str) -> Result<Self, String> {
        let number = |text: &str| match text.parse::<u32>() {
            Ok(number) if number <= MAX => Ok(number),
            Ok(_) => Err(format!("values larger than {MAX} are not supported")),
            Err(error) => Err(format!("{text:?}: {error}")),
        };
        let mut set = Self::default();
        for element in list.split(',').map(str::trim).filter(|element| !element.is_empty()) {
            let (first, last) = element.split_once('-').unwrap_or((element, element));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(format!("invalid range: {element}"));
            }
            (first..=last).for_each(|number| set.insert(number));
        }
        if set.0.is_empty() && !list.is_empty() {
            return Err(format!("no members found in set {list:?}"));
        }
        Ok(set)
    }

    /// Every number that is taken.
    pub(crate) fn all() -> Self {
        Self(vec![u64::MAX; (MAX / u64::BITS) as usize])
    }

    /// How many numbers are in it.
    pub(crate) fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// The mask, lowest number first.
    pub(crate) fn words(&self) -> &[u64] {
        &self.0
    }

    fn insert(&mut self, number: u32) {
        let word = (number / u64::BITS) as usize;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (number % u64::BITS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_become_masks() {
        for (list, words) in
            [("", &[][..]), ("0", &[1]), ("1-3, 5", &[0b10_1110]), (",0,,64,", &[1, 1]), ("63-64", &[1 << 63, 1])]
        {
            assert_eq!(IdSet::parse(list).unwrap().words(), words, "{list}");
        }
        assert_eq!(IdSet::parse("0-7").unwrap().len(), 8);
        for list in [",", "a", "3-1", "-1", "1-", "0-9876543210", "65537", "0x1"] {
            assert!(IdSet::parse(list).is_err(), "{list}");
        }
    }
}
