//! Which addresses are prohibited unless an admin allows them.
//!
//! The ranges are the IANA special-purpose registries (RFC 6890 and its updates) as far as a
//! provider has no business there. An IPv6 address that carries an IPv4 address is judged by the
//! address inside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

const V4: [(Ipv4Net, &str); 15] = [
    (v4([0, 0, 0, 0], 8), "\"this network\" (RFC 791)"),
    (v4([10, 0, 0, 0], 8), "private (RFC 1918)"),
    (v4([100, 64, 0, 0], 10), "shared address space (RFC 6598)"),
    (v4([127, 0, 0, 0], 8), "loopback"),
    (v4([169, 254, 0, 0], 16), "link-local and cloud metadata"),
    (v4([172, 16, 0, 0], 12), "private (RFC 1918)"),
    (v4([192, 0, 0, 0], 24), "IETF protocol assignments"),
    (v4([192, 0, 2, 0], 24), "documentation"),
    (v4([192, 88, 99, 0], 24), "6to4 relay anycast"),
    (v4([192, 168, 0, 0], 16), "private (RFC 1918)"),
    (v4([198, 18, 0, 0], 15), "benchmarking"),
    (v4([198, 51, 100, 0], 24), "documentation"),
    (v4([203, 0, 113, 0], 24), "documentation"),
    (v4([224, 0, 0, 0], 4), "multicast"),
    (v4([240, 0, 0, 0], 4), "reserved and broadcast"),
];

const V6: [(Ipv6Net, &str); 13] = [
    (
        v6([0, 0, 0, 0, 0, 0, 0, 0], 8),
        "unspecified, loopback or IPv4-compatible",
    ),
    (v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), "local-use NAT64"),
    (v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64), "discard-only"),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32), "Teredo"),
    (v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48), "benchmarking"),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), "documentation"),
    (v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), "6to4"),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), "documentation"),
    (v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16), "segment routing"),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), "unique local"),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), "link-local"),
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), "site-local"),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "multicast"),
];

const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96);

const fn v4(octets: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(
        Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]),
        prefix,
    )
}

const fn v6(s: [u16; 8], prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(
        Ipv6Addr::new(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]),
        prefix,
    )
}

/// The address that is really reached: the IPv4 address inside an IPv4-mapped or NAT64 one.
fn canonical(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    if let Some(inside) = v6.to_ipv4_mapped() {
        return IpAddr::V4(inside);
    }
    if NAT64.contains(&v6) {
        let [.., a, b, c, d] = v6.octets();
        return IpAddr::V4(Ipv4Addr::new(a, b, c, d));
    }
    address
}

/// Why `address` may not be reached, or `None` when it may. `allowed` are networks that an admin
/// has opened; they are compared with the address as written and with the one inside.
#[must_use]
pub fn prohibited(address: IpAddr, allowed: &[IpNet]) -> Option<&'static str> {
    let inside = canonical(address);
    let reason = match inside {
        IpAddr::V4(v4) => V4
            .iter()
            .find(|(net, _)| net.contains(&v4))
            .map(|(_, why)| *why),
        IpAddr::V6(v6) => V6
            .iter()
            .find(|(net, _)| net.contains(&v6))
            .map(|(_, why)| *why),
    }?;
    let opened = allowed
        .iter()
        .any(|net| net.contains(&inside) || net.contains(&address));
    (!opened).then_some(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prohibited_and_public_addresses() {
        let prohibited_texts = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
        ];
        for text in prohibited_texts {
            let address: IpAddr = text.parse().expect(text);
            assert!(
                prohibited(address, &[]).is_some(),
                "{text} must be prohibited"
            );
        }
        let public_texts = [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.255.255",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2a00::1",
        ];
        for text in public_texts {
            let address: IpAddr = text.parse().expect(text);
            assert_eq!(prohibited(address, &[]), None, "{text} must be public");
        }
    }

    #[test]
    fn an_allowed_network_opens_itself_only() {
        let allowed = ["127.0.0.0/8".parse().expect("net")];
        let at = |text: &str| prohibited(text.parse().expect(text), &allowed);
        assert_eq!(at("127.0.0.1"), None);
        assert_eq!(at("::ffff:127.0.0.1"), None);
        assert!(at("10.0.0.1").is_some());
        assert!(at("::1").is_some());
    }
}
