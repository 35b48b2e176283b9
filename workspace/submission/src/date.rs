//! Dates as messages have them. RFC 5322, section 3.3, always in UTC.

use sternpost_message::UnixMillis;

const SECONDS_PER_DAY: u64 = 86_400;
/// 9999-12-31T23:59:59Z: the last second whose year has four digits.
const SECONDS_MAX: u64 = 253_402_300_799;
const DAYS_PER_400_YEARS: u64 = 146_097;
const DAY_NAMES: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTH_NAMES: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// `at` as `Sat, 21 Nov 2026 22:45:10 +0000`: always 31 octets, or 30 while the day has one digit. Parts of a second
/// are dropped, and the end of the year 9999 is the end of time.
#[must_use]
pub fn internet_date(at: UnixMillis) -> String {
    let seconds = (at.0 / 1000).min(SECONDS_MAX);
    let (days, second) = (seconds / SECONDS_PER_DAY, seconds % SECONDS_PER_DAY);
    let (year, month, day) = civil_date(days);
    let day_name = DAY_NAMES.iter().cycle().nth(usize::try_from(days % 7).unwrap_or(0)).unwrap_or(&"Thu");
    let month_name = MONTH_NAMES.get(usize::try_from(month - 1).unwrap_or(0)).unwrap_or(&"Jan");
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{day_name}, {day} {month_name} {year} {hour:02}:{minute:02}:{second:02} +0000")
}

/// Year, month (1 to 12) and day of the month of a day counted from 1970-01-01.
///
/// The year is taken to begin in March, so that the leap day is its last day and every month's start is one division
/// (153 days in each five months from March on).
const fn civil_date(days: u64) -> (u64, u64, u64) {
    // 719,468 days from 0000-03-01 to 1970-01-01.
    let days = days + 719_468;
    let (era, day_of_era) = (days / DAYS_PER_400_YEARS, days % DAYS_PER_400_YEARS);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / (DAYS_PER_400_YEARS - 1)) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_stand_as_rfc_5322_has_them() {
        let rows = [
            (0, "Thu, 1 Jan 1970 00:00:00 +0000"),
            (951_782_399_999, "Mon, 28 Feb 2000 23:59:59 +0000"),
            (951_782_400_000, "Tue, 29 Feb 2000 00:00:00 +0000"),
            (1_709_251_199_000, "Thu, 29 Feb 2024 23:59:59 +0000"),
            (1_709_251_200_000, "Fri, 1 Mar 2024 00:00:00 +0000"),
            (1_795_301_110_500, "Sat, 21 Nov 2026 22:45:10 +0000"),
            (4_107_542_400_000, "Mon, 1 Mar 2100 00:00:00 +0000"),
            (u64::MAX, "Fri, 31 Dec 9999 23:59:59 +0000"),
        ];
        for (at, text) in rows {
            assert_eq!(internet_date(UnixMillis(at)), text, "{at}");
        }
    }

    #[test]
    fn each_day_follows_the_one_before_it() {
        let mut before = civil_date(0);
        for days in 1..60_000 {
            let date = civil_date(days);
            let next_day = (before.0, before.1, before.2 + 1) == date;
            let next_month = (before.0, before.1 + 1, 1) == date && before.2 >= 28;
            let next_year = (before.0 + 1, 1, 1) == date && (before.1, before.2) == (12, 31);
            assert!(next_day || next_month || next_year, "{before:?} then {date:?}");
            before = date;
        }
        assert_eq!(before, (2134, 4, 10));
    }
}
