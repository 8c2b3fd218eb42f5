//! Tables: rows of text under headings, columns as wide as they need.

/// A table as it is filled.
#[derive(Debug)]
pub(crate) struct Table {
    headings: Vec<&'static str>,
    /// Columns that stand flush right: numbers.
    right: Vec<usize>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table. The columns of `right` hold numbers and stand flush right.
    pub(crate) fn new(headings: &[&'static str], right: &[usize]) -> Self {
        Self { headings: headings.to_vec(), right: right.to_vec(), rows: Vec::new() }
    }

    /// Adds a row with a cell for each heading.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<_> = cells.into_iter().collect();
        debug_assert_eq!(cells.len(), self.headings.len());
        self.rows.push(cells);
    }

    /// The lines, headings first; `empty` in their place when there are no rows.
    pub(crate) fn text(&self, empty: &str) -> String {
        if self.rows.is_empty() {
            return empty.to_owned();
        }
        let headings: Vec<_> = self.headings.iter().map(|&heading| heading.to_owned()).collect();
        let all = || std::iter::once(&headings).chain(&self.rows);
        let width = |column: usize| all().map(|row| row[column].chars().count()).max().unwrap_or_default();
        let widths: Vec<_> = (0..headings.len()).map(width).collect();
        all().map(|row| self.line(row, &widths)).collect::<Vec<_>>().join("\n")
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let cell = |(column, (text, &width)): (usize, (&String, &usize))| match self.right.contains(&column) {
            true => format!("{text:>width$}"),
            false => format!("{text:<width$}"),
        };
        let cells: Vec<_> = row.iter().zip(widths).enumerate().map(cell).collect();
        cells.join("  ").trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_need_and_numbers_stand_right() {
        let mut table = Table::new(&["NAME", "SIZE", "NOTE"], &[1]);
        table.row(["müsli".to_owned(), "9".to_owned(), String::new()]);
        table.row(["a".to_owned(), "12,345".to_owned(), "x".to_owned()]);
        assert_eq!(table.text("none"), "NAME     SIZE  NOTE\nmüsli       9\na      12,345  x");
    }

    #[test]
    fn an_empty_table_says_so() {
        assert_eq!(Table::new(&["NAME"], &[]).text("no jobs"), "no jobs");
    }
}
