//! What goes to standard output: tables for people, JSON for programs.

use std::io::{self, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::failure::Failure;

/// How answers are written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Tables and sentences.
    #[default]
    Table,
    /// One JSON value.
    Json,
}

/// Whether colours are wanted on standard error: it is a terminal, and NO_COLOR is not set.
pub(crate) fn color() -> bool {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !plain && io::stderr().is_terminal()
}

/// Writes answers in one format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) format: Format,
}

impl Output {
    /// A listing: a table of `header` and `rows`, or `value` as JSON.
    pub(crate) fn list<T: Serialize>(
        self,
        value: &T,
        header: &[&str],
        rows: Vec<Vec<String>>,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Json => json(value),
            Format::Table => text(&table(header, rows)),
        }
    }

    /// One thing: its fields below each other, or `value` as JSON.
    pub(crate) fn one<T: Serialize>(
        self,
        value: &T,
        fields: Vec<(&str, String)>,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Json => json(value),
            Format::Table => text(&block(fields)),
        }
    }

    /// Something done: a sentence, or `value` as JSON.
    pub(crate) fn done<T: Serialize>(self, value: &T, sentence: &str) -> Result<(), Failure> {
        match self.format {
            Format::Json => json(value),
            Format::Table => text(&format!("{sentence}\n")),
        }
    }
}

/// Fields below each other, their names aligned.
pub(crate) fn block(fields: Vec<(&str, String)>) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for (name, value) in fields {
        let mut lines = value.lines();
        out.push_str(format!("{name:width$}  {}", lines.next().unwrap_or("")).trim_end());
        out.push('\n');
        for line in lines {
            out.push_str(&format!("{:width$}  {line}\n", ""));
        }
    }
    out
}

/// A table without borders: easy on the eye, and `awk` can cut it.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(|name| name.to_uppercase()));
    for row in rows {
        table.add_row(row.into_iter().map(|cell| visible(&cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut out = String::new();
    for line in table.lines() {
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A cell that is never empty and never moves the cursor: names come from initiators too.
fn visible(cell: &str) -> String {
    if cell.is_empty() {
        return "-".to_owned();
    }
    cell.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

fn json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let mut line = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::local("cannot write JSON", &error.into()))?;
    line.push('\n');
    text(&line)
}

/// A line of a table whose end is not known: cells with blanks between them.
pub(crate) fn line(cells: &[String]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| visible(cell)).collect();
    cells.join("  ")
}

/// Writes to standard output. A reader that has read enough (`| head`) is no failure.
pub(crate) fn text(text: &str) -> Result<(), Failure> {
    still_read(text).map(|_| ())
}

/// Writes to standard output; false when nobody reads it any more.
pub(crate) fn still_read(text: &str) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::local("cannot write to standard output", &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_shows_emptiness() {
        let rows = vec![
            vec!["disk0".to_owned(), "8 GiB".to_owned(), String::new()],
            vec![
                "a-longer-name".to_owned(),
                "1 TiB".to_owned(),
                "esc\x1b[2J".to_owned(),
            ],
        ];
        insta::assert_snapshot!(table(&["name", "size", "reason"], rows), @r"
        NAME           SIZE   REASON
        disk0          8 GiB  -
        a-longer-name  1 TiB  esc?[2J
        ");
    }

    #[test]
    fn a_block_aligns_names_and_further_lines() {
        let fields = vec![
            ("name", "disk0".to_owned()),
            ("attention", "one\ntwo".to_owned()),
        ];
        insta::assert_snapshot!(block(fields), @r"
        name       disk0
        attention  one
                   two
        ");
    }
}
