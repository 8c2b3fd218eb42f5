//! Pages of lists: sizes and opaque tokens. A token holds the place after which the next page begins, and a digest of the
//! filters it was made under, so that it is refused with others.

use sha2::{Digest, Sha256};

use super::status::Problem;

/// Items of a page when the caller does not say.
const DEFAULT_SIZE: usize = 50;
/// Most items of a page.
const MAX_SIZE: usize = 500;
/// Bytes of a page's items, past which it ends early: jobs carry templates, and a message has a limit.
const MAX_PAGE_BYTES: usize = super::MAX_MESSAGE_BYTES;

/// What a caller asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Page {
    /// Most items.
    pub(crate) size: usize,
    /// Only items before this one, in the order of creation.
    pub(crate) before: Option<u64>,
    filters: [u8; 8],
}

impl Page {
    /// Reads a request; `filters` stands for everything in it that chooses items.
    pub(crate) fn new(page_size: i32, page_token: &str, filters: &str) -> Result<Self, Problem> {
        let size = match usize::try_from(page_size) {
            Ok(0) => DEFAULT_SIZE,
            Ok(size) => size.min(MAX_SIZE),
            Err(_) => return Err(Problem::field("page_size", format!("is {page_size}; must not be negative"))),
        };
        let filters = digest(filters);
        let before = match page_token {
            "" => None,
            token => Some(place(token, filters)?),
        };
        Ok(Self { size, before, filters })
    }

    /// How many items to look up: one more than fit, which tells whether another page follows.
    pub(crate) fn limit(&self) -> usize {
        self.size + 1
    }

    /// The items of this page and the token of the next one, empty after the last.
    pub(crate) fn cut<T>(
        &self,
        mut items: Vec<T>,
        place: impl Fn(&T) -> u64,
        num_bytes: impl Fn(&T) -> usize,
    ) -> (Vec<T>, String) {
        let mut total = 0;
        let fitting = items.iter().take(self.size).take_while(|item| {
            let first = total == 0;
            total += num_bytes(item).max(1);
            first || total <= MAX_PAGE_BYTES
        });
        let count = fitting.count();
        let more = items.len() > count;
        items.truncate(count);
        let token = match items.last() {
            Some(last) if more => self.token(place(last)),
            _ => String::new(),
        };
        (items, token)
    }

    fn token(&self, place: u64) -> String {
        hex::encode([place.to_be_bytes(), self.filters].concat())
    }
}

fn place(token: &str, filters: [u8; 8]) -> Result<u64, Problem> {
    let mut bytes = [0; 16];
    hex::decode_to_slice(token, &mut bytes)
        .map_err(|_| Problem::field("page_token", "is not a token that this server gave"))?;
    let (place, made_under) = bytes.split_at(8);
    if made_under != filters {
        return Err(Problem::field("page_token", "was given for other filters; start again without it"));
    }
    Ok(place.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn digest(filters: &str) -> [u8; 8] {
    let mut short = [0; 8];
    short.copy_from_slice(&Sha256::digest(filters)[..8]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(size: i32, token: &str, filters: &str) -> Page {
        Page::new(size, token, filters).unwrap()
    }

    #[test]
    fn sizes_are_clamped_and_negative_ones_refused() {
        assert_eq!(page(0, "", "").size, 50);
        assert_eq!(page(7, "", "").size, 7);
        assert_eq!(page(9999, "", "").size, 500);
        assert!(Page::new(-1, "", "").is_err());
    }

    #[test]
    fn a_token_leads_to_the_next_page_under_the_same_filters_only() {
        let (items, token) = page(2, "", "state=RUNNING").cut(vec![9, 8, 7], |&item| item, |_| 10);
        assert_eq!(items, [9, 8]);
        assert_eq!(page(2, &token, "state=RUNNING").before, Some(8));
        assert!(Page::new(2, &token, "state=FAILED").is_err());
        for bad in ["8", "zz", &token[1..], &format!("{token}00")] {
            assert!(Page::new(2, bad, "state=RUNNING").is_err(), "{bad}");
        }
        let (items, token) = page(2, "", "").cut(vec![2, 1], |&item| item, |_| 10);
        assert_eq!((items.len(), token.as_str()), (2, ""));
    }

    #[test]
    fn a_page_ends_early_when_its_items_are_large_but_is_never_empty() {
        let large = |_: &u64| MAX_PAGE_BYTES / 2 + 1;
        let (items, token) = page(10, "", "").cut(vec![3, 2, 1], |&item| item, large);
        assert_eq!(items, [3]);
        assert_eq!(page(10, &token, "").before, Some(3));
    }
}
