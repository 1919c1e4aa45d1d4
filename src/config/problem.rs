//! Errors of a configuration, worded so that the reader can correct them.

use std::{fmt, ops::Range, path::PathBuf};

/// One error in the configuration: shown as `FILE:LINE: SETTING: what, and what to do`.
#[derive(Debug)]
pub struct ConfigProblem {
    file: PathBuf,
    /// 1-based; `None` if the error concerns the whole file.
    line: Option<usize>,
    setting: Option<String>,
    what: String,
}

impl ConfigProblem {
    pub(super) fn file(file: impl Into<PathBuf>, what: impl Into<String>) -> ConfigProblem {
        ConfigProblem { file: file.into(), line: None, setting: None, what: what.into() }
    }

    /// `span` is the byte range of the error in `text`.
    pub(super) fn at(
        file: impl Into<PathBuf>,
        text: &str,
        span: Option<Range<usize>>,
        setting: Option<&str>,
        what: impl Into<String>,
    ) -> ConfigProblem {
        let line = span.map(|span| line_of(text, span.start));
        ConfigProblem {
            file: file.into(),
            line,
            setting: setting.map(str::to_owned),
            what: what.into(),
        }
    }
}

/// All errors that were found in a configuration, in the order of the file. At least one.
#[derive(Debug)]
pub struct ConfigProblems(Vec<ConfigProblem>);

impl ConfigProblems {
    /// `Ok` if there are none.
    pub(super) fn of(mut problems: Vec<ConfigProblem>) -> Result<(), ConfigProblems> {
        if problems.is_empty() {
            return Ok(());
        }
        // What concerns the whole file comes last.
        problems.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        Err(ConfigProblems(problems))
    }
}

impl From<ConfigProblem> for ConfigProblems {
    fn from(problem: ConfigProblem) -> ConfigProblems {
        ConfigProblems(vec![problem])
    }
}

/// A line for each.
impl fmt::Display for ConfigProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.0.iter().enumerate() {
            let end = if number == 0 { "" } else { "\n" };
            write!(f, "{end}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigProblems {}

/// The line of the octet at `offset`, from 1.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes().iter().take(offset).filter(|&&byte| byte == b'\n').count()
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(setting) = &self.setting {
            write!(f, ": {setting}")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl std::error::Error for ConfigProblem {}
