//! SENTENCES.md speaks of tests that exist.

const TABLE: &str = include_str!("../SENTENCES.md");
const SOURCES: [&str; 16] = [
    include_str!("rules/balance.rs"),
    include_str!("rules/drain.rs"),
    include_str!("rules/families.rs"),
    include_str!("rules/flow.rs"),
    include_str!("rules/leaving.rs"),
    include_str!("rules/minimise.rs"),
    include_str!("rules/times.rs"),
    include_str!("rules/order.rs"),
    include_str!("rules/delays.rs"),
    include_str!("rules/processes.rs"),
    include_str!("oracle/main.rs"),
    include_str!("oracle/model.rs"),
    include_str!("nonsense.rs"),
    include_str!("../src/backoff.rs"),
    include_str!("../src/limits.rs"),
    include_str!("../src/tree.rs"),
];

#[test]
fn every_test_that_the_table_names_exists() {
    let rows = TABLE.lines().filter(|line| line.starts_with('|')).skip(2);
    let mut names_count = 0;
    for row in rows {
        let tests = row.rsplit('|').nth(1).expect("a row has two columns");
        for quoted in tests.split('`').skip(1).step_by(2) {
            let name = quoted.rsplit(' ').next().unwrap_or(quoted);
            assert!(SOURCES.iter().any(|source| source.contains(name)), "{name}");
            names_count += 1;
        }
    }
    assert!(names_count > 20);
}
