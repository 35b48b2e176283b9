//! `sternpost device resolver`: `resolv.conf` with the name servers that the network daemon knows, those of DHCP too. Run
//! whenever the daemon writes down its state; there is no resolver daemon on the device.

use super::{CommandResult, DeviceError, networkd};
use crate::logging;
use crate::place::{self, Owner};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// Far more than the daemon writes.
const STATE_OCTETS_MAX: u64 = 64 * 1024;

/// Where to read and to write.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The state of systemd-networkd
    #[arg(long, value_name = "FILE", default_value = "/run/systemd/netif/state")]
    state: PathBuf,
    /// The file that is written
    #[arg(long, value_name = "FILE", default_value = "/run/sternpost-device/resolv.conf")]
    out: PathBuf,
}

/// Writes the file if it is to change.
///
/// # Errors
/// `Read`, `Write`.
pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    logging::start("resolver");
    let state = place::read_text(&arguments.state, STATE_OCTETS_MAX)
        .map_err(|source| DeviceError::Read { path: arguments.state.clone(), source })?
        .unwrap_or_default();
    let servers = servers(&state);
    let text = networkd::resolv_conf(&servers);
    if std::fs::read_to_string(&arguments.out).is_ok_and(|present| present == text) {
        return Ok(ExitCode::SUCCESS);
    }
    place::put(&arguments.out, text.as_bytes(), Owner::PUBLIC).map_err(DeviceError::write(&arguments.out))?;
    tracing::info!(event = "device.resolver", ?servers, "name servers");
    Ok(ExitCode::SUCCESS)
}

/// The addresses in the line `DNS=`. A server may carry a port, an interface and a name, which are left out.
fn servers(state: &str) -> Vec<IpAddr> {
    let line = state.lines().find_map(|line| line.strip_prefix("DNS=")).unwrap_or_default();
    line.split_ascii_whitespace().filter_map(server).collect()
}

fn server(text: &str) -> Option<IpAddr> {
    let text = text.split(['#', '%']).next()?;
    if let Some(bracketed) = text.strip_prefix('[') {
        return bracketed.split(']').next()?.parse().ok();
    }
    text.parse().ok().or_else(|| text.rsplit_once(':')?.0.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_of_every_notation_are_found() {
        let state = "# This is private data. Do not parse.\nOPER_STATE=routable\nDNS=10.0.2.3 2001:db8::53 192.0.2.1:5353 [2001:db8::1]:53#name fe80::1%2 x\n";
        let wanted: [IpAddr; 5] =
            ["10.0.2.3", "2001:db8::53", "192.0.2.1", "2001:db8::1", "fe80::1"].map(|a| a.parse().unwrap());
        assert_eq!(servers(state), wanted);
        assert_eq!(servers("OPER_STATE=off\n"), Vec::<IpAddr>::new());
    }
}
