//! Quantiles by nearest rank: each is a value that was measured.

/// The least of these values, which ascend, that `percent` of a hundred do not exceed. None without any.
#[must_use]
pub fn nearest_rank<T: Copy>(ascending: &[T], percent: usize) -> Option<T> {
    let rank = (ascending.len() * percent).div_ceil(100).max(1);
    ascending.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_a_value_that_was_measured() {
        let hundred: Vec<u32> = (1..=100).collect();
        let rows: [(&[u32], usize, Option<u32>); 9] = [
            (&[], 50, None),
            (&[7], 0, Some(7)),
            (&[7], 99, Some(7)),
            (&[1, 2], 50, Some(1)),
            (&[1, 2], 51, Some(2)),
            (&hundred, 50, Some(50)),
            (&hundred, 99, Some(99)),
            (&hundred, 100, Some(100)),
            (&hundred[..99], 99, Some(99)),
        ];
        for (values, percent, expected) in rows {
            assert_eq!(nearest_rank(values, percent), expected, "{percent} of {}", values.len());
        }
    }
}
