//! TLS alerts in the clear, for a client that is refused before any key is agreed.

/// Why a client is refused (RFC 8446, 6.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Alert {
    /// `access_denied` (49): the name may not be reached.
    AccessDenied,
    /// `decode_error` (50): the ClientHello cannot be read.
    DecodeError,
    /// `no_application_protocol` (120): the client offers none that the guard carries.
    NoApplicationProtocol,
    /// `internal_error` (80): the guard has no certificate for the name.
    InternalError,
    /// `unrecognized_name` (112): the SNI is not the name behind the address.
    UnrecognizedName,
}

impl Alert {
    /// The fatal alert as one plaintext record with `legacy_record_version` 3.3 (RFC 8446, 5.1),
    /// which every TLS client takes as the answer to its first flight.
    #[must_use]
    pub const fn record(self) -> [u8; 7] {
        let description = match self {
            Self::AccessDenied => 49,
            Self::DecodeError => 50,
            Self::InternalError => 80,
            Self::UnrecognizedName => 112,
            Self::NoApplicationProtocol => 120,
        };
        [21, 3, 3, 0, 2, 2, description]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::ServerName;
    use rustls::{AlertDescription, ClientConfig, ClientConnection, Error, RootCertStore};

    use super::Alert;

    #[test]
    fn a_real_client_reads_the_alert() {
        for (alert, expected) in [
            (Alert::AccessDenied, AlertDescription::AccessDenied),
            (Alert::DecodeError, AlertDescription::DecodeError),
            (Alert::UnrecognizedName, AlertDescription::UnrecognisedName),
            (Alert::InternalError, AlertDescription::InternalError),
            (
                Alert::NoApplicationProtocol,
                AlertDescription::NoApplicationProtocol,
            ),
        ] {
            let config = ClientConfig::builder()
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth();
            let name = ServerName::try_from("a.example").unwrap();
            let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
            client.write_tls(&mut Vec::new()).unwrap();
            client.read_tls(&mut &alert.record()[..]).unwrap();
            assert_eq!(
                client.process_new_packets().unwrap_err(),
                Error::AlertReceived(expected)
            );
        }
    }
}
