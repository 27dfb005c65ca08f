//! Double quotes in tables of text, as CSV has them: finds those that do not enclose one cell.
//!
//! A cell is quoted if its first byte is a double quote; within it, two double quotes are one. A stray quote makes all
//! further lines, up to the next quote, part of one cell. Parsers of CSV take that without an error, and rows are lost. What
//! a stray quote leaves behind is found here:
//!
//! - a quoted cell that is not closed at the end of the text;
//! - a closing quote that is followed by neither a separator nor the end of the line.
//!
//! Whether a cell may go on over the end of a line is for the reader of the table to decide. A quote within a cell that does
//! not begin with one is text.

/// A double quote that does not enclose one cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuoteFault {
    /// The quoted cell is not closed at the end of the text.
    #[error("a double quote is not closed, so the cell goes on to the end of the file")]
    Open {
        /// Number of the line of the opening quote, from 1.
        line: u64,
    },
    /// Text follows a closing quote.
    #[error("text follows the double quote that closes a cell, in line {closed}")]
    Text {
        /// Number of the line of the opening quote, from 1.
        line: u64,
        /// Number of the line of the closing quote.
        closed: u64,
    },
}

impl QuoteFault {
    /// Number of the line of the opening quote, from 1.
    pub fn line(self) -> u64 {
        match self {
            Self::Open { line } | Self::Text { line, .. } => line,
        }
    }
}

/// Reads a text byte by byte. Lines end in `\n`, `\r\n` or `\r`.
#[derive(Clone, Debug)]
pub struct Quotes {
    separator: u8,
    state: State,
    line: u64,
    after_return: bool,
    /// Line of the last opening quote.
    opened: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first byte of a cell.
    Start,
    /// In a cell without quotes.
    Plain,
    /// In a quoted cell.
    Quoted,
    /// Behind a quote in a quoted cell.
    Quote,
    /// Behind blanks that follow a closing quote.
    Closed,
}

impl Quotes {
    /// Starts at the beginning of a text whose cells are divided by `separator`.
    pub fn new(separator: u8) -> Self {
        Self { separator, state: State::Start, line: 1, after_return: false, opened: 1 }
    }

    /// Reads the next byte.
    ///
    /// # Errors
    /// [`QuoteFault::Text`].
    pub fn push(&mut self, byte: u8) -> Result<(), QuoteFault> {
        let ends = matches!(byte, b'\n' | b'\r');
        let behind = ends || byte == self.separator;
        self.state = match (self.state, byte) {
            (State::Start, b'"') => {
                self.opened = self.line;
                State::Quoted
            }
            (State::Start | State::Plain, _) if behind => State::Start,
            (State::Start | State::Plain, _) => State::Plain,
            (State::Quoted, b'"') => State::Quote,
            (State::Quoted, _) | (State::Quote, b'"') => State::Quoted,
            (State::Quote | State::Closed, _) if behind => State::Start,
            (State::Quote | State::Closed, b' ' | b'\t') => State::Closed,
            (State::Quote | State::Closed, _) => {
                return Err(QuoteFault::Text { line: self.opened, closed: self.line });
            }
        };
        // A line feed behind a carriage return ends the same line.
        self.line += u64::from(ends && !(byte == b'\n' && self.after_return));
        self.after_return = byte == b'\r';
        Ok(())
    }

    /// Ends the text.
    ///
    /// # Errors
    /// [`QuoteFault::Open`].
    pub fn finish(&self) -> Result<(), QuoteFault> {
        match self.state {
            State::Quoted => Err(QuoteFault::Open { line: self.opened }),
            _ => Ok(()),
        }
    }

    /// The line of the opening quote, if the next byte belongs to a quoted cell.
    pub fn within(&self) -> Option<u64> {
        (self.state == State::Quoted).then_some(self.opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> Result<(), QuoteFault> {
        let mut quotes = Quotes::new(b',');
        text.bytes().try_for_each(|byte| quotes.push(byte))?;
        quotes.finish()
    }

    #[test]
    fn whole_cells_in_quotes_are_sound() {
        for text in [
            "",
            "a,b",
            "\"a\",\"b,c\"\r\n\"\"",
            "\"say \"\"a\"\"\" ,b",
            "5\" disk,a\"b\n",
            "\"two\nlines\",x\n",
            " \"a\n",
        ] {
            assert_eq!(fault(text), Ok(()), "{text:?}");
        }
    }

    #[test]
    fn stray_quotes_are_found_with_their_line() {
        for (text, expected) in [
            ("a\nb,\"c\nd\n", QuoteFault::Open { line: 2 }),
            ("\"", QuoteFault::Open { line: 1 }),
            ("\"a\"\"\n", QuoteFault::Open { line: 1 }),
            ("a\r\n\r\n\"b\r\nc,\"d\r\n", QuoteFault::Text { line: 3, closed: 4 }),
            ("a\r\r\"b\rc,\"d", QuoteFault::Text { line: 3, closed: 4 }),
            ("\"a\" \"b\"", QuoteFault::Text { line: 1, closed: 1 }),
            ("\"a\" b\"", QuoteFault::Text { line: 1, closed: 1 }),
        ] {
            assert_eq!(fault(text), Err(expected), "{text:?}");
        }
    }
}
