//! Entry points for fuzzing, which plain tests also run over `tests/corpus`.

use crate::ldif::base64;
use crate::trust::{CERTIFICATE_OCTETS_MAX, certificates};
use crate::{Configuration, DomainPattern, SmtpServerView, entries_from_tables, entries_to_tables, load};

/// Reads any text as tables and as a configuration. Each domain finds its route, and tables without a problem that are
/// written again say the same.
///
/// # Panics
/// When that does not hold.
pub fn fuzz_tables(octets: &[u8]) {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    let Ok(entries) = entries_from_tables(text) else { return };
    let loaded = load(&entries, "");
    let Some(configuration) = loaded.configuration else {
        assert!(!loaded.problems.is_empty(), "without a configuration there is a problem");
        return;
    };
    let view = SmtpServerView::new(&configuration, |_| (9, 2));
    for rule in &configuration.routes {
        if let DomainPattern::Exact(domain) = &rule.domain {
            assert_eq!(view.route(domain), Some(rule));
        }
    }
    if loaded.problems.is_empty() {
        let written = entries_to_tables(&entries, "");
        let again =
            entries_from_tables(&written).map(|entries| load(&entries, "").configuration.map(in_order));
        assert_eq!(again, Ok(Some(in_order(configuration))), "{written}");
    }
}

/// Reads any text as certificates. What is read has the shape of a certificate, and read again as base64 it is the same.
///
/// # Panics
/// When that does not hold.
pub fn fuzz_certificates(octets: &[u8]) {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    let Ok(all) = certificates(text) else { return };
    assert!(!all.is_empty(), "a value that is read has a certificate");
    for der in all {
        assert!(der.len() <= CERTIFICATE_OCTETS_MAX && der.starts_with(&[0x30]), "{text}");
        assert_eq!(certificates(&base64(&der)).ok(), Some(vec![der]), "{text}");
    }
}

/// The routes by domain: their order is that of the entries' names, which a table need not have.
fn in_order(mut configuration: Configuration) -> Configuration {
    configuration.routes.sort_by(|a, b| a.domain.cmp(&b.domain));
    configuration
}
