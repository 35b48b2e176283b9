//! The files below `provisioning/` say what the table of attributes says.
//!
//! `UPDATE_PROVISIONING=1 cargo test -p sternpost-config --test provisioning` writes them anew.

use std::path::PathBuf;

const BEGIN: &str = "<!-- reference:begin -->\n";
const END: &str = "<!-- reference:end -->\n";

fn check(file: &str, wanted: impl FnOnce(&str) -> String) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../provisioning").join(file);
    let present = std::fs::read_to_string(&path).expect("the file is in the repository");
    let wanted = wanted(&present);
    if std::env::var_os("UPDATE_PROVISIONING").is_some() {
        std::fs::write(&path, &wanted).expect("the repository can be written");
    } else {
        assert!(present == wanted, "{file} differs from the table: run this test with UPDATE_PROVISIONING=1");
    }
}

#[test]
fn the_schema_file_is_the_table() {
    check("schema/sternpost.ldif", |_| sternpost_config::schema_ldif());
}

#[test]
fn the_guide_holds_the_reference_of_the_table() {
    check("README.md", |present| {
        let (head, rest) = present.split_once(BEGIN).expect("the guide marks where the reference begins");
        let (_, tail) = rest.split_once(END).expect("the guide marks where the reference ends");
        format!("{head}{BEGIN}\n{}{END}{tail}", sternpost_config::reference())
    });
}
