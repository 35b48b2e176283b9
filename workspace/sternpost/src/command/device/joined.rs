//! The switch's own bootstrap: the part that the image carries (`device.toml`: queue, folders, sandbox, self test) joined
//! with what the site says (node, directory and credentials).

use std::path::Path;
use toml::{Table, Value};

/// Keys that only a site can give.
const OF_THE_SITE: [&str; 5] = ["node", "directory", "tables", "network", "signer"];

/// Why the two cannot be joined: a defect of the image, not of the site.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinError {
    /// The image's part cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is no TOML.
    #[error("{path} is no TOML")]
    Form {
        /// The file.
        path: String,
        /// Why.
        source: Box<toml::de::Error>,
    },
    /// It says what only a site can know.
    #[error("{path} has {key}, which belongs to the site's bootstrap")]
    OfTheSite {
        /// The file.
        path: String,
        /// The key.
        key: &'static str,
    },
    /// The result cannot be written.
    #[error("the joined bootstrap cannot be written")]
    Write(#[from] toml::ser::Error),
}

/// The joined text.
///
/// # Errors
/// See [`JoinError`].
pub(crate) fn joined(
    device: &Path,
    node: &str,
    directory: &sternpost_directory::Bootstrap,
    credentials: &Path,
) -> Result<String, JoinError> {
    let path = || device.display().to_string();
    let text = std::fs::read_to_string(device).map_err(|source| JoinError::Read { path: path(), source })?;
    let mut table: Table =
        toml::from_str(&text).map_err(|source| JoinError::Form { path: path(), source: Box::new(source) })?;
    if let Some(key) = OF_THE_SITE.into_iter().find(|key| table.contains_key(*key)) {
        return Err(JoinError::OfTheSite { path: path(), key });
    }
    table.insert("node".to_owned(), Value::String(node.to_owned()));
    table.insert("directory".to_owned(), Value::try_from(directory)?);
    let signer = Table::from_iter([("credentials".to_owned(), Value::try_from(credentials)?)]);
    table.insert("signer".to_owned(), Value::Table(signer));
    Ok(format!("# Made by sternpost device bootstrap at each start.\n{}", toml::to_string(&table)?))
}
