//! How much of a list is shown, and the pages that it comes in.

use clap::Args;

use crate::failure::Failure;

/// How much of a list is shown.
#[derive(Debug, Args)]
pub(crate) struct Page {
    /// Most to list; 0 lists all.
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
}

impl Page {
    /// The largest page of the API; it takes larger sizes for this one.
    const MOST: usize = 500;

    /// All that `list` gives: it takes the size and the token of a page, and gives what is on it and the token of the next.
    pub(crate) async fn all<T>(
        &self,
        mut list: impl AsyncFnMut(i32, String) -> Result<(Vec<T>, String), Failure>,
    ) -> Result<Vec<T>, Failure> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let (found, next) = list(self.next_size(all.len()), page_token).await?;
            all.extend(found);
            if self.is_full(all.len()) || next.is_empty() {
                return Ok(all);
            }
            page_token = next;
        }
    }

    /// The size of the next page, when `there` have come already.
    fn next_size(&self, there: usize) -> i32 {
        let wanted = if self.limit == 0 { Self::MOST } else { (self.limit - there).min(Self::MOST) };
        wanted as i32
    }

    /// Whether `there` are all that are wanted.
    fn is_full(&self, there: usize) -> bool {
        self.limit > 0 && there >= self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_met_exactly_and_none_asks_for_full_pages() {
        let page = Page { limit: 700 };
        assert_eq!((page.next_size(0), page.is_full(500)), (500, false));
        assert_eq!((page.next_size(500), page.is_full(700)), (200, true));
        let all = Page { limit: 0 };
        assert_eq!((all.next_size(9000), all.is_full(9000)), (500, false));
    }
}
