//! The mistakes of a file that people write: all that can be told at once, within bounds.

use std::{fmt, path::PathBuf};

/// Mistakes of a file that are told; the others are counted.
const TOLD_MAX: usize = 20;

/// At least one mistake, once it is an error. Shown as a line for each: `FILE:LINE: what`.
#[derive(Debug, Default)]
pub struct Mistakes {
    file: PathBuf,
    /// In the order of the file.
    told: Vec<(usize, String)>,
    more: usize,
}

impl Mistakes {
    pub(super) fn of(file: impl Into<PathBuf>) -> Mistakes {
        Mistakes { file: file.into(), ..Mistakes::default() }
    }

    pub(super) fn add(&mut self, line: usize, what: impl Into<String>) {
        match self.told.len() < TOLD_MAX {
            true => self.told.push((line, what.into())),
            false => self.more += 1,
        }
    }

    /// `value` if there are none.
    pub(super) fn or<T>(self, value: T) -> Result<T, Mistakes> {
        if self.told.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl std::error::Error for Mistakes {}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        for (index, (line, what)) in self.told.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{file}:{line}: {what}")?;
        }
        match self.more {
            0 => Ok(()),
            1 => write!(f, "\n{file}: 1 more mistake"),
            more => write!(f, "\n{file}: {more} more mistakes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_are_counted() {
        let mut mistakes = Mistakes::of("f");
        for line in 1..=TOLD_MAX {
            mistakes.add(line, "x");
        }
        let all = mistakes.to_string();
        assert_eq!((all.lines().count(), all.lines().next()), (TOLD_MAX, Some("f:1: x")));
        mistakes.add(99, "x");
        assert!(mistakes.to_string().ends_with("f:20: x\nf: 1 more mistake"), "{mistakes}");
        mistakes.add(100, "x");
        assert!(mistakes.to_string().ends_with("\nf: 2 more mistakes"), "{mistakes}");
        assert!(mistakes.or(()).is_err());
        assert!(Mistakes::of("f").or(()).is_ok());
    }
}
