//! `state.json`: what the device knows of its bootstrap, for the console.

/// Its name in the device's run folder.
pub(crate) const STATE_FILE: &str = "state.json";
/// The device's run folder.
pub(crate) const FOLDER_DEFAULT: &str = "/run/sternpost-device";

/// A wired port that a bootstrap names, by either.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct PortName {
    pub(crate) name: Option<String>,
    /// Goes before the name.
    pub(crate) mac: Option<String>,
}

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct State {
    /// Where the bootstrap in force came from, in words; none as long as there is none.
    pub(crate) source: Option<String>,
    /// The node's name.
    pub(crate) node: Option<String>,
    /// The machine's serial number.
    pub(crate) serial: Option<String>,
    /// The directory's servers.
    pub(crate) directory: Vec<String>,
    /// The wired ports that the bootstrap in force names.
    #[serde(default)]
    pub(crate) ports: Vec<PortName>,
    /// What is wrong with bootstraps that were refused, and with what could not be done.
    pub(crate) problems: Vec<String>,
    /// What is missing and how to give it; empty when nothing is.
    pub(crate) needs: Vec<String>,
}
