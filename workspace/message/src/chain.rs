//! What is said of an error at the edge: itself and its causes.

use std::error::Error;

/// An error with its causes, on one line. None of them repeats its cause in its own words.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| text + ": " + &cause.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{words}")]
    struct Said {
        words: &'static str,
        source: Option<Box<Said>>,
    }

    #[test]
    fn an_error_is_said_with_its_causes_each_once() {
        let ground = Said { words: "no medium", source: None };
        assert_eq!(chain(&ground), "no medium");
        let disk = Said { words: "read at 4096 failed", source: Some(Box::new(ground)) };
        let log = Said { words: "the log cannot be read", source: Some(Box::new(disk)) };
        assert_eq!(chain(&log), "the log cannot be read: read at 4096 failed: no medium");
    }
}
