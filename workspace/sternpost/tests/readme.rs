//! The examples of the README are what the switch accepts, as they stand there.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the place")]

use std::path::Path;
use std::process::{Command, Output};

fn readme() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md")).unwrap()
}

fn sternpost(arguments: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sternpost"))
        .args(arguments)
        .current_dir(folder)
        .env("STERNPOST_RUN_DIRECTORY", folder)
        .output()
        .unwrap()
}

#[test]
fn the_bootstrap_and_the_tables_of_the_readme_are_accepted() {
    let readme = readme();
    let examples: Vec<&str> =
        readme.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let [bootstrap, tables, ..] = examples[..] else { panic!("the readme has a bootstrap and tables") };
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("bootstrap.toml"), bootstrap).unwrap();
    std::fs::write(folder.path().join("tables.toml"), tables).unwrap();
    let output = sternpost(&["check-config", "--bootstrap", "bootstrap.toml"], folder.path());
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("good"), "{said}");
}

#[test]
fn every_command_of_the_readme_is_understood() {
    let readme = readme().replace("\\\n", " ");
    let folder = tempfile::tempdir().unwrap();
    let commands = readme.lines().filter_map(|line| line.strip_prefix("    sternpost "));
    // On a machine that has a bootstrap in this place, a switch would run.
    let commands = commands.filter(|command| !command.starts_with("run "));
    let mut count = 0;
    for command in commands {
        let words: Vec<&str> =
            command.split_whitespace().take_while(|word| !["#", "|", ">"].contains(word)).collect();
        let output = sternpost(&words, folder.path());
        // There is no such file or switch here; but a command line that is wrong is another thing.
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("try '--help'"), "{command}: {said}");
        count += 1;
    }
    assert!(count >= 8, "the readme shows how to operate");
}
