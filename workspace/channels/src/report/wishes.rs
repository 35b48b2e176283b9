//! What the header section of a message says that matters for reports on it: the languages that its sender reads (RFC 3282), and
//! whether this switch has found that it is not from whom it says (RFC 8601).

use super::original::header_section;
use sternpost_config::{LanguageTag, ReportEvent, ReportText};

/// Languages of one message that are looked at.
const LANGUAGES_MAX: usize = 32;

/// The languages in which the sender of this content wants to be written to, the best first: those of `Accept-Language`, else
/// those in which the message itself is (`Content-Language`).
#[must_use]
pub fn languages(content: &[u8]) -> Vec<LanguageTag> {
    let fields = fields(content);
    let of = |name: &str| fields.iter().find(|(own, _)| own.eq_ignore_ascii_case(name));
    if let Some((_, accepted)) = of("Accept-Language") {
        let mut ranked: Vec<(u32, LanguageTag)> =
            accepted.split(',').take(LANGUAGES_MAX).filter_map(ranked).collect();
        ranked.sort_by_key(|(quality, _)| std::cmp::Reverse(*quality));
        return ranked.into_iter().map(|(_, language)| language).collect();
    }
    let content = of("Content-Language").map(|(_, value)| value.as_str()).unwrap_or_default();
    content
        .split(',')
        .take(LANGUAGES_MAX)
        .filter_map(|tag| without_comments(tag).trim().parse().ok())
        .collect()
}

/// A language with its quality in thousandths (`da;q=0.7`). None for what is not wanted at all, and for `*`.
fn ranked(range: &str) -> Option<(u32, LanguageTag)> {
    let range = without_comments(range);
    let (tag, parameters) = range.split_once(';').unwrap_or((&range, ""));
    let quality = match parameters.trim().split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("q") => thousandths(value.trim())?,
        _ => 1_000,
    };
    Some((quality, tag.trim().parse().ok()?)).filter(|(quality, _)| *quality > 0)
}

/// `0`, `1`, or either with up to three digits behind a point.
fn thousandths(text: &str) -> Option<u32> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |digits: &str| digits.bytes().all(|octet| octet.is_ascii_digit());
    if !matches!(whole, "0" | "1") || part.len() > 3 || !is_number(part) {
        return None;
    }
    format!("{whole}{part:0<3}").parse().ok().map(|number: u32| number.min(1_000))
}

/// The text of a report for who wants these languages, the best first; English for who wants none that is there.
#[must_use]
pub fn text_for<'a>(
    texts: &'a [ReportText],
    event: ReportEvent,
    wanted: &[LanguageTag],
) -> Option<&'a ReportText> {
    let of_event = || texts.iter().filter(|text| text.event == event);
    let best = |wanted: &LanguageTag| {
        let answering = of_event().filter_map(|text| Some((text.language.answers(wanted)?, text)));
        // Of equals the first one: those of the configuration stand before those in the box.
        answering.reduce(|best, other| if other.0 > best.0 { other } else { best }).map(|(_, text)| text)
    };
    wanted.iter().find_map(best).or_else(|| best(&LanguageTag::english())).or_else(|| of_event().next())
}

/// Whether the topmost `Authentication-Results` of this switch says that the message has failed DMARC, or SPF without passing
/// DMARC. What stands below may be anybody's.
#[must_use]
pub fn has_failed_authentication(content: &[u8], hostname: &str) -> bool {
    let fields = fields(content);
    let own = fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("Authentication-Results")).find_map(
        |(_, value)| {
            let value = without_comments(value);
            let (server, results) = value.split_once(';')?;
            let is_own = server.split_whitespace().next()?.eq_ignore_ascii_case(hostname);
            is_own.then(|| results.to_ascii_lowercase())
        },
    );
    let Some(results) = own else { return false };
    let result_of = |method: &str| {
        results.split(';').find_map(|result| {
            let (name, rest) = result.split_once('=')?;
            (name.trim() == method).then(|| rest.split_whitespace().next().unwrap_or_default().to_owned())
        })
    };
    let (dmarc, spf) = (result_of("dmarc"), result_of("spf"));
    match dmarc.as_deref() {
        Some("fail") => true,
        Some("pass") => false,
        _ => spf.as_deref() == Some("fail"),
    }
}

/// The fields of the header section, unfolded, from the top. Values that are no UTF-8 say what can be read of them.
fn fields(content: &[u8]) -> Vec<(String, String)> {
    let section = String::from_utf8_lossy(header_section(content));
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in section.lines() {
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim_end().to_owned(), value.trim().to_owned()));
        }
    }
    fields
}

/// Text without what stands in parentheses. RFC 5322, section 3.2.2.
fn without_comments(text: &str) -> String {
    let mut depth = 0_u32;
    let mut is_escaped = false;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if depth > 0 => is_escaped = true,
            '(' => depth += 1,
            ')' if depth > 0 => depth -= 1,
            _ if depth == 0 => out.push(c),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use sternpost_config::built_in_report_texts;

    #[test]
    fn the_languages_are_those_that_the_header_accepts_else_those_that_it_is_in() {
        let rows = [
            ("Accept-Language: de\r\n", "de"),
            ("accept-language: en;q=0.5, de (for ever), fr;q=0.8\r\nContent-Language: it\r\n", "de fr en"),
            ("Accept-Language: da;\r\n q=0, *;q=0.1, sv;q=2, pt-BR;q=0.123\r\n", "pt-br"),
            ("Content-Language: de-AT, en (a little)\r\n", "de-at en"),
            ("Subject: Accept-Language: de\r\n", ""),
            ("X: y\r\n\r\nAccept-Language: de\r\n", ""),
        ];
        for (content, wanted) in rows {
            let languages = languages(content.as_bytes());
            let tags: Vec<_> = languages.iter().map(LanguageTag::as_str).collect();
            assert_eq!(tags.join(" "), wanted, "{content:?}");
        }
        assert!(
            languages(format!("Accept-Language: {}\r\n", "de,".repeat(500)).as_bytes()).len()
                <= LANGUAGES_MAX
        );
    }

    #[test]
    fn a_text_is_in_the_first_wanted_language_that_is_there_else_in_english() {
        let texts = built_in_report_texts();
        let tags = |text: &str| text.split(' ').filter_map(|tag| tag.parse().ok()).collect::<Vec<_>>();
        for (wanted, got) in [("de", "de"), ("fr de-CH en", "de"), ("fr", "en"), ("", "en")] {
            let text = text_for(&texts, ReportEvent::Delay, &tags(wanted)).unwrap();
            assert_eq!((text.language.as_str(), text.event), (got, ReportEvent::Delay), "{wanted}");
        }
        let own =
            ReportText { subject: sternpost_config::Template::subject("own").unwrap(), ..texts[0].clone() };
        let texts = [vec![own.clone()], texts].concat();
        assert_eq!(text_for(&texts, own.event, &tags("en")), Some(&own));
    }

    #[test]
    fn only_what_this_switch_has_found_on_top_counts_as_failed_authentication() {
        let rows = [
            ("Authentication-Results: mx.example.org; dmarc=fail header.from=a.example", true),
            (
                "Authentication-Results: MX.example.org 1;\r\n spf=fail (no; really) smtp.mailfrom=a;\r\n dkim=none",
                true,
            ),
            ("Authentication-Results: mx.example.org; spf=fail; dmarc=pass", false),
            ("Authentication-Results: mx.example.org; spf=softfail", false),
            ("Authentication-Results: mx.example.org; none", false),
            ("Authentication-Results: other.example; dmarc=fail", false),
            (
                "Authentication-Results: mx.example.org; dmarc=pass\r\nAuthentication-Results: mx.example.org; dmarc=fail",
                false,
            ),
            ("Subject: dmarc=fail", false),
        ];
        for (header, has_failed) in rows {
            let content = format!("{header}\r\n\r\nbody");
            assert_eq!(
                has_failed_authentication(content.as_bytes(), "mx.example.org"),
                has_failed,
                "{header}"
            );
        }
    }
}
