//! The time between two attempts: linear in the number of failed ones, up to a maximum.

/// Back-off before the next attempt, milliseconds: `min(failed × step, max)`. No attempt failed, no wait.
#[must_use]
pub(crate) const fn delay_ms(failed_count: u32, step_ms: u64, max_ms: u64) -> u64 {
    let delay_ms = step_ms.saturating_mul(failed_count as u64);
    if delay_ms < max_ms { delay_ms } else { max_ms }
}

#[cfg(test)]
mod tests {
    use super::delay_ms;

    #[test]
    fn the_time_between_attempts_grows_linearly_up_to_the_maximum() {
        let delays: Vec<u64> = (0..6).map(|failed| delay_ms(failed, 300, 1000)).collect();
        assert_eq!(delays, [0, 300, 600, 900, 1000, 1000]);
    }

    #[test]
    fn no_number_of_attempts_overflows() {
        assert_eq!(delay_ms(u32::MAX, u64::MAX, u64::MAX), u64::MAX);
    }
}
