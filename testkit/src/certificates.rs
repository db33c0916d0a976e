//! Certificates for tests of TLS.

use std::path::Path;
use std::process::Command;

use crate::executables::require;

/// Makes a certificate authority (`ca.pem`) with openssl, a certificate and key
/// of a `server` at 127.0.0.1 and 10.98.0.1 and of a `client` that it signed, and those of a
/// `stranger` that an `other` authority signed.
///
/// # Panics
///
/// Without openssl.
pub fn certificates(folder: &Path) {
    let openssl = require("openssl", "the Debian package openssl");
    let run = |arguments: &[&str]| {
        let output = Command::new(&openssl)
            .args(arguments)
            .current_dir(folder)
            .output()
            .expect("openssl starts");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    std::fs::write(
        folder.join("server.ext"),
        "subjectAltName=IP:127.0.0.1,IP:10.98.0.1\n",
    )
    .expect("written");
    std::fs::write(folder.join("client.ext"), "extendedKeyUsage=clientAuth\n").expect("written");
    for authority in ["ca", "other"] {
        let subject = format!("/CN={authority}");
        let (key, out) = (format!("{authority}-key.pem"), format!("{authority}.pem"));
        run(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            &subject,
            "-keyout",
            &key,
            "-out",
            &out,
        ]);
    }
    for (name, authority, extension) in [
        ("server", "ca", "server.ext"),
        ("client", "ca", "client.ext"),
        ("stranger", "other", "client.ext"),
    ] {
        let (key, request, out) = (
            format!("{name}-key.pem"),
            format!("{name}.csr"),
            format!("{name}.pem"),
        );
        let subject = format!("/CN={name}");
        run(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            &subject,
            "-keyout",
            &key,
            "-out",
            &request,
        ]);
        let (ca, ca_key) = (format!("{authority}.pem"), format!("{authority}-key.pem"));
        run(&[
            "x509",
            "-req",
            "-days",
            "2",
            "-in",
            &request,
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-CAcreateserial",
            "-extfile",
            extension,
            "-out",
            &out,
        ]);
    }
}
