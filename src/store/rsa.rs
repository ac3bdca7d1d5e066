//! RSA key pairs, fast: every core looks for primes of its own, and the first two found make the key. Touches no file.
//!
//! Pure Rust: `crypto-primes` on `crypto-bigint`. `benches/keygen.rs` finds half the time of `ssh-keygen` for 4096 bits
//! even where the second core is busy. The `rsa` crate of ssh-key, 0.9, needs several times as long; C is not needed.

use std::{
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
};

use crypto_bigint::{BoxedUint, ConcatenatingMul, Lcm, Limb, NonZero, Odd, Resize};
use crypto_primes::{
    Flavor,
    hazmat::{MillerRabin, SetBits, SieveFactory, SmallFactorsSieveFactory, minimum_mr_iterations},
};
use getrandom::{
    SysRng,
    rand_core::{TryRng, UnwrapErr},
};
use ssh_key::{
    Mpint,
    private::{RsaKeypair, RsaPrivateKey},
    public::RsaPublicKey,
};
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// The public exponent that everybody uses, a prime, and the smallest that FIPS 186-5 allows.
const EXPONENT: Limb = Limb::from_u32(65537);

/// A composite is taken for a prime with a probability below 2 to the minus this (FIPS 186-5, table B.1).
const CERTAINTY: u32 = 128;

/// The primes differ within their first hundred bits (FIPS 186-5, appendix A.1.3), else n is easily taken apart.
const DIFFERENT_BITS: u32 = 100;

/// Wiped when dropped. The copies that the arithmetic makes while it tests a candidate cannot be reached.
type Prime = Zeroizing<BoxedUint>;

/// Makes a new key pair; its modulus has exactly `bits` bits, of which there are an even number.
pub fn generate(bits: u32) -> Result<RsaKeypair> {
    // The search cannot return this error: after the first number the kernel's generator does not fail.
    SysRng
        .try_next_u32()
        .map_err(|error| Error::internal("the operating system gives no random numbers").because(error))?;
    let (p, q) = two_primes(bits / 2)?;
    assemble(&p, &q).ok_or_else(|| Error::internal("the primes of an RSA key do not fit together"))
}

/// Lets every core search until two primes are there: how long one takes is luck, and no core waits for another's.
fn two_primes(bits: u32) -> Result<(Prime, Prime)> {
    let enough = AtomicBool::new(false);
    let (found, primes) = mpsc::channel();
    let pair = thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            let (found, enough) = (found.clone(), &enough);
            scope.spawn(move || search(bits, &found, enough));
        }
        // Else the receiver would wait for ever if every search ended in a panic.
        drop(found);
        let pair = first_pair(bits, &primes);
        enough.store(true, Ordering::Relaxed);
        pair
    });
    pair.ok_or_else(|| Error::internal(format!("the search for primes of {bits} bits ended without two")))
}

fn first_pair(bits: u32, primes: &Receiver<Prime>) -> Option<(Prime, Prime)> {
    let first = primes.recv().ok()?;
    let second = primes.iter().find(|second| are_far_apart(bits, &first, second))?;
    Some((first, second))
}

/// Sends primes until there are `enough`.
fn search(bits: u32, found: &Sender<Prime>, enough: &AtomicBool) {
    let mut rng = UnwrapErr(SysRng);
    // With the two highest bits set in both primes the modulus is never a bit short.
    let Ok(mut starts) = SmallFactorsSieveFactory::<BoxedUint>::new(Flavor::Any, bits, SetBits::TwoMsb) else {
        return;
    };
    // Each prime is the first one after a random place of its own, never the neighbour of the one before.
    while let Ok(Some(candidates)) = starts.make_sieve(&mut rng, None) {
        for candidate in candidates {
            if enough.load(Ordering::Relaxed) {
                return;
            }
            if is_usable(&candidate, bits, &mut rng) {
                if found.send(Zeroizing::new(candidate)).is_err() {
                    return;
                }
                break;
            }
        }
    }
}

/// Whether a candidate without small factors is prime, and prime minus one has no factor in common with the exponent.
fn is_usable(candidate: &BoxedUint, bits: u32, rng: &mut UnwrapErr<SysRng>) -> bool {
    let (Some(exponent), Some(odd), Some(rounds)) = (
        NonZero::new(EXPONENT).into_option(),
        Odd::new(candidate.clone()).into_option(),
        minimum_mr_iterations(bits, CERTAINTY),
    ) else {
        return false;
    };
    if candidate.rem_limb(exponent) == Limb::ONE {
        return false;
    }
    let test = MillerRabin::new(odd);
    // One round sorts out nearly every composite; those that count have random bases.
    !test.test_base_two().is_composite() && (0..rounds).all(|_| !test.test_random_base(rng).is_composite())
}

fn are_far_apart(bits: u32, p: &BoxedUint, q: &BoxedUint) -> bool {
    let (large, small) = if p > q { (p, q) } else { (q, p) };
    Zeroizing::new(large.wrapping_sub(small)).bits() > bits - DIFFERENT_BITS
}

/// Works out what else an OpenSSH private key holds: n, d and the inverse of q.
fn assemble(p: &Prime, q: &Prime) -> Option<RsaKeypair> {
    // OpenSSL expects p to be the larger one.
    let (p, q): (&BoxedUint, &BoxedUint) = if **p > **q { (p, q) } else { (q, p) };
    let one = BoxedUint::one();
    let p_minus_1 = Zeroizing::new(p.wrapping_sub(&one));
    let q_minus_1 = Zeroizing::new(q.wrapping_sub(&one));
    let period = Zeroizing::new(NonZero::new(p_minus_1.lcm(&*q_minus_1)).into_option()?);
    let e = BoxedUint::from(EXPONENT).resize(period.bits_precision());
    let d = Zeroizing::new(e.invert_mod(&period).into_option()?);
    let iqmp = Zeroizing::new(q.invert_odd_mod(&Zeroizing::new(Odd::new(p.clone()).into_option()?)).into_option()?);
    Some(RsaKeypair {
        public: RsaPublicKey { n: mpint(&p.concatenating_mul(q))?, e: mpint(&e)? },
        private: RsaPrivateKey { d: mpint(&d)?, iqmp: mpint(&iqmp)?, p: mpint(p)?, q: mpint(q)? },
    })
}

fn mpint(number: &BoxedUint) -> Option<Mpint> {
    Mpint::from_positive_bytes(&Zeroizing::new(number.to_be_bytes())).ok()
}

#[cfg(test)]
mod tests {
    use crypto_primes::is_prime;

    use super::*;

    fn number(mpint: &Mpint) -> BoxedUint {
        BoxedUint::from_be_slice_vartime(mpint.as_positive_bytes().unwrap())
    }

    #[test]
    fn the_parts_of_a_key_fit_together() {
        for bits in [2048, 2176, 3072] {
            let key = generate(bits).unwrap();
            let [p, q, d] = [&key.private.p, &key.private.q, &key.private.d].map(number);
            let n = number(&key.public.n);
            assert_eq!(n.bits(), bits);
            assert_eq!(n, p.concatenating_mul(&q));
            assert!(p > q && is_prime(Flavor::Any, &p) && is_prime(Flavor::Any, &q));
            assert_eq!(number(&key.public.e), BoxedUint::from(EXPONENT));
            let ed = d.concatenating_mul(&BoxedUint::from(EXPONENT));
            for prime in [&p, &q] {
                let order = NonZero::new(prime.wrapping_sub(BoxedUint::one())).unwrap();
                assert_eq!(ed.rem_vartime(&order), BoxedUint::one());
            }
            let inverse = number(&key.private.iqmp).concatenating_mul(&q);
            assert_eq!(inverse.rem_vartime(&NonZero::new(p).unwrap()), BoxedUint::one());
        }
    }

    #[test]
    fn primes_that_are_close_together_are_not_a_pair() {
        let one = BoxedUint::one_with_precision(1024);
        let low = one.shl_vartime(1023).unwrap().wrapping_add(one.shl_vartime(1000).unwrap());
        let above = |shift| low.wrapping_add(one.shl_vartime(shift).unwrap());
        assert!(!are_far_apart(1024, &low, &low));
        assert!(!are_far_apart(1024, &low, &above(923)));
        assert!(are_far_apart(1024, &low, &above(924)));
        assert!(are_far_apart(1024, &above(924), &low));
    }

    #[test]
    fn composites_and_primes_at_odds_with_the_exponent_are_unusable() {
        let mut rng = UnwrapErr(SysRng);
        let mersenne = |bits| BoxedUint::max(bits).shr_vartime(bits.next_multiple_of(64) - bits).unwrap();
        assert!(is_usable(&mersenne(521), 521, &mut rng));
        assert!(!is_usable(&mersenne(523), 523, &mut rng));
        // 2 · 65537 · k + 1, the first prime of that form with 512 bits.
        let mut k = BoxedUint::one_with_precision(512).shl_vartime(494).unwrap();
        let one = BoxedUint::one_with_precision(512);
        let prime = loop {
            let candidate = k.wrapping_mul(BoxedUint::from(EXPONENT)).shl_vartime(1).unwrap().wrapping_add(&one);
            if is_prime(Flavor::Any, &candidate) {
                break candidate;
            }
            k = k.wrapping_add(&one);
        };
        assert!(!is_usable(&prime, 512, &mut rng));
    }
}
