//! The form of a datagram. Owned by the circuit room.
