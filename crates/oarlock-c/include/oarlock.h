/* oarlock.h: locks that hold in a whole cluster, for C and C++.
 *
 * SPDX-License-Identifier: Apache-2.0 OR MIT
 * Written by `cargo xtask header`; to change it, change crates/oarlock-c.
 *
 *     oar_client *client; oar_space *space; oar_lock *lock;
 *     oar_opts opts = OAR_OPTS_INIT;
 *     opts.timeout_ms = 2000;
 *     int rc = oar_connect(NULL, NULL, &client);
 *     if (rc == 0) rc = oar_space_open(client, "default", 0, &space);
 *     if (rc == 0) rc = oar_lock_wait(space, "orders/1184", 11, OAR_EX, &opts, &lock);
 *     ...
 *     oar_lock_free(lock);
 *
 * Functions that return int return 0, or what they are asked for, or one of the negative OAR_E codes.
 * oar_strerror() has a sentence for each code, oar_errinfo() all that is known of this thread's last error.
 *
 * Every struct begins with its size, which its _INIT macro fills in. A library that is older or newer than the
 * program reads and writes no more than that.
 *
 * Callbacks run only inside oar_dispatch(), in the thread that calls it, while the library holds no lock of its
 * own: a callback may do with its lock what it likes, oar_lock_free() included. It must return: no longjmp out
 * of it, no C++ exception.
 *
 * Handles may be used by several threads at once. After fork() they are the parent's: in the child every function
 * returns OAR_E_FORKED and touches nothing; connect again there. The library has no global state, installs no
 * signal handlers, takes no signals in its threads, raises no SIGPIPE, never ends the program and leaves errno
 * as it was.
 */

#ifndef OARLOCK_H
#define OARLOCK_H

#include <stddef.h>
#include <stdint.h>

#define OAR_OPTS_INIT { sizeof(oar_opts), 0, 0, 0, 0, 0 }
#define OAR_CONNECT_OPTS_INIT { sizeof(oar_connect_opts), 0, NULL, NULL }
#define OAR_VALUE_INIT { sizeof(oar_value), 0, 0, { 0 } }
#define OAR_ERROR_INIT { sizeof(oar_error), 0, 0, 0, { 0 } }

// Null: stands with everything; keeps the resource and its value block alive.
#define OAR_NL 0

// Concurrent read: reads, and lets others write.
#define OAR_CR 1

// Concurrent write: writes, and lets others write.
#define OAR_CW 2

// Protected read: reads, nobody writes.
#define OAR_PR 3

// Protected write: writes, others may at most read unprotected.
#define OAR_PW 4

// Exclusive: nobody else, but for NL.
#define OAR_EX 5

// Somebody holds the lock and the request did not want to wait.
#define OAR_E_BUSY (-1)

// The lock was not granted in time.
#define OAR_E_TIMED_OUT (-2)

// This node cannot tell without asking another one; only with OAR_LOCAL.
#define OAR_E_NOT_OWNED (-3)

// Holders wait for each other; this request was refused and the lock stands as before.
#define OAR_E_DEADLOCK (-4)

// The lock is gone: stop using what it protected.
#define OAR_E_LOST (-5)

// The lock is held still, and lost within a second unless the node renews its lease.
#define OAR_E_AT_RISK (-6)

// The request was withdrawn.
#define OAR_E_CANCELLED (-7)

// The call makes no sense: a null pointer, a name too long, flags that exclude each other, a lock not held.
#define OAR_E_USAGE (-8)

// Another operation on the same lock is under way.
#define OAR_E_IN_FLIGHT (-9)

// The daemon runs but its cluster does not grant locks, or not at this node.
#define OAR_E_NOT_SERVING (-10)

// The node is kept out until an earlier run of it is fenced.
#define OAR_E_FENCED (-11)

// No daemon answers.
#define OAR_E_NO_DAEMON (-12)

// This user may not do that.
#define OAR_E_DENIED (-13)

// Daemon and library speak different versions.
#define OAR_E_VERSION (-14)

// There is no such lockspace.
#define OAR_E_UNKNOWN_SPACE (-15)

// A bound was reached.
#define OAR_E_LIMIT (-16)

// The daemon sent what no honest daemon sends.
#define OAR_E_MALFORMED (-17)

// The handle belongs to the parent of this process.
#define OAR_E_FORKED (-18)

// Something else; oar_errinfo() says what.
#define OAR_E_FAILED (-19)

// The library has a fault; it goes on, but what the call has done is unknown.
#define OAR_E_INTERNAL (-20)

// Do not wait while somebody holds it: OAR_E_BUSY. Other nodes are asked if need be.
#define OAR_NOQUEUE (1 << 0)

// Like OAR_NOQUEUE, and if somebody holds it, tell them that it is wanted.
#define OAR_NOQUEUE_NOTIFY (1 << 1)

// Queue in front of those who wait already.
#define OAR_HEADQUE (1 << 2)

// Pass queued requests that this one does not conflict with. New locks only.
#define OAR_NOORDER (1 << 3)

// Queue behind conversions that wait already, even if this one would fit. Conversions only.
#define OAR_QUECVT (1 << 4)

// Grant a new NL lock past every queue. New locks only.
#define OAR_EXPEDITE (1 << 5)

// Read the resource's value block, and be allowed to write it. New locks only; their conversions keep it.
#define OAR_VALBLK (1 << 6)

// If the wanted mode does not fit, PR will do; see oar_lock_is_alternate().
#define OAR_ALTPR (1 << 8)

// If the wanted mode does not fit, CW will do.
#define OAR_ALTCW (1 << 9)

// Ask the master even if this node could grant by itself, so that the token's hi grows.
#define OAR_FRESH (1 << 10)

// Answer from what this node owns, without a message between nodes: OAR_E_BUSY or OAR_E_NOT_OWNED if it cannot
// grant. New locks only.
#define OAR_LOCAL (1 << 11)

// Never choose this request as the victim of a deadlock.
#define OAR_NODLCKWT (1 << 12)

// Leave this lock out of the search for deadlocks: it will be released whatever happens. New locks only.
#define OAR_NODLCKBLK (1 << 13)

// Send no blocking notices for this lock.
#define OAR_NOBAST (1 << 14)

// For oar_connect_opts: ask the node for every lock, and share no memory with it.
#define OAR_NO_SHARED_MEMORY (1 << 0)

// Bytes of a value block.
#define OAR_VALUE_BYTES 64

// Bytes of oar_error's text, its closing zero included.
#define OAR_ERROR_BYTES 496

// A session with the node of this machine. It ends when the client is closed and all its spaces and locks are.
typedef struct oar_client oar_client;

// A lock, from its request until it is freed.
typedef struct oar_lock oar_lock;

// A lockspace.
typedef struct oar_space oar_space;

// What went wrong, in full. Begin with OAR_ERROR_INIT.
typedef struct oar_error {
    // sizeof(oar_error).
    uint32_t size;
    // The code that was returned; 0 if nothing has gone wrong.
    int rc;
    // The number that `oarlock explain` knows, as 2101 in OAR-2101; 0 if it has none.
    uint32_t number;
    // 0.
    uint32_t reserved;
    // What was tried, why it did not work and what may help. UTF-8, cut where it does not fit.
    char text[OAR_ERROR_BYTES];
} oar_error;

// How to connect. Begin with OAR_CONNECT_OPTS_INIT. NULL is the same as that.
typedef struct oar_connect_opts {
    // sizeof(oar_connect_opts).
    uint32_t size;
    // OAR_NO_SHARED_MEMORY.
    uint32_t flags;
    // What the program calls itself; people see it when they ask who holds a lock. NULL: its file name.
    const char *label;
    // Where to write why it failed, because there is no client to ask then. May be NULL.
    oar_error *error;
} oar_connect_opts;

// What else there is to say about a lock or a conversion. Begin with OAR_OPTS_INIT. NULL is the same as that.
typedef struct oar_opts {
    // sizeof(oar_opts).
    uint32_t size;
    // OAR_NOQUEUE and so on.
    uint32_t flags;
    // Give up after so many milliseconds: OAR_E_TIMED_OUT. 0: wait as long as it takes.
    uint32_t timeout_ms;
    // 0.
    uint32_t reserved;
    // Who stands behind a new lock, as the program sees it. Shown to people. In a search for deadlocks all locks of an owner are one's. 0: the
    // thread that waits, in oar_lock_wait(), and nobody in oar_lock_start().
    uint64_t owner;
    // The transaction that a new lock belongs to; 0 is none.
    uint64_t transaction;
} oar_opts;

// An operation has come to its end, with 0 or an error code.
typedef void (*oar_done_fn)(void *arg, oar_lock *lock, int rc);

// Others want a mode that this lock is in the way of. To give way is polite, not compulsory.
typedef void (*oar_blocking_fn)(void *arg, oar_lock *lock, int wanted_mode);

// The lock is at risk (OAR_E_AT_RISK) or lost (OAR_E_LOST).
typedef void (*oar_lost_fn)(void *arg, oar_lock *lock, int rc);

// Of two PW or EX grants of one resource the later has the larger token: compare hi, then lo. hi is the fence, for
// storage that compares a single number; it grows with every grant only with OAR_FRESH.
typedef struct oar_token {
    // The fence.
    uint64_t hi;
    // Counts exclusive grants under one fence.
    uint64_t lo;
} oar_token;

// A resource's value block. Begin with OAR_VALUE_INIT.
typedef struct oar_value {
    // sizeof(oar_value).
    uint32_t size;
    // 1, or 0 if the bytes may not be believed because a writer died.
    uint32_t valid;
    // Grows with each write; 0 if there was none yet.
    uint64_t sequence;
    // The block.
    uint8_t bytes[OAR_VALUE_BYTES];
} oar_value;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The version of the library, as "0.1.0".
const char *oar_version(void);

// A sentence for a code. Never NULL, and never to be freed.
const char *oar_strerror(int rc);

// Connects to the daemon whose socket this is. NULL: to the one that OARLOCK_SOCKET names; without that variable, to
// the one of this machine; and if there is none, to the first node of this user's running `oarlock dev`.
//
// opts may be NULL. On success *client is the session: it and all its locks end when the process does, or when it is
// closed and all its spaces and locks are.
int oar_connect(const char *socket,
                const oar_connect_opts *opts,
                oar_client **client);

// Closes a client; NULL is no error. Its spaces and locks stay until they are freed. No callback begins any more once
// this has returned, and none that runs in another thread is waited for.
void oar_close(oar_client *client);

// Fills *error with the last error of this thread with this client, its spaces and locks. Inside a callback, that is
// what the callback is about.
int oar_errinfo(const oar_client *client,
                oar_error *error);

// The name of the node that the session is with. Valid until the client is closed; NULL in a fork.
const char *oar_node(const oar_client *client);

// The name of the cluster. Valid until the client is closed; NULL in a fork.
const char *oar_cluster(const oar_client *client);

// A descriptor that is readable while there are callbacks to run: wait for it with poll(), then call oar_dispatch().
// It is the client's: do not read or close it.
int oar_fd(const oar_client *client);

// Runs the callbacks there are to run, in this thread, and returns how many; if there are none, waits up to so many
// milliseconds for some (0: not at all, -1: as long as it takes). Returns 0 when the time is up or a signal came.
// Several threads may call it at once, and callbacks may; then callbacks of one lock may run in several threads at once.
int oar_dispatch(oar_client *client,
                 int timeout_ms);

// Finds a lockspace by its name. "default" exists in every cluster. flags: 0.
int oar_space_open(oar_client *client,
                   const char *space_name,
                   uint32_t flags,
                   oar_space **space);

// Frees a lockspace's handle; NULL is no error. Its locks stay.
void oar_space_close(oar_space *space);

// Waits for a lock on the resource of this name: 1 to 255 bytes of any value. opts may be NULL.
//
// On success *lock is held until oar_unlock_wait(), oar_unlock_start() or oar_lock_free(). Otherwise *lock stays as it was.
int oar_lock_wait(oar_space *space,
                  const void *resource,
                  size_t length,
                  int mode,
                  const oar_opts *opts,
                  oar_lock **lock);

// Asks for a lock without waiting. A later oar_dispatch() calls done_fn with what came of it: 0 if it was granted, be it
// at once, or why it was not. It does so once, unless the handle is freed first. When the lock is held, blocking_fn, which
// may be NULL, is called when others want it.
//
// On success *lock is a handle, before any callback has it. It is to be freed, granted or not. If an error is returned,
// there is no handle, and done_fn is not called.
int oar_lock_start(oar_space *space,
                   const void *resource,
                   size_t length,
                   int mode,
                   const oar_opts *opts,
                   oar_done_fn done_fn,
                   oar_blocking_fn blocking_fn,
                   void *arg,
                   oar_lock **lock);

// Says whom to tell, from now on, that others want this lock, and that it is at risk or lost. NULL for what nobody wants
// to hear; whoever was told before is not told any more.
int oar_watch(oar_lock *lock,
              oar_blocking_fn blocking_fn,
              oar_lost_fn lost_fn,
              void *arg);

// Changes the mode, up or down, and waits until that is granted. If it is refused, the lock stands as before. From PW
// or EX down the value block is written.
int oar_convert_wait(oar_lock *lock,
                     int mode,
                     const oar_opts *opts);

// Changes the mode as oar_convert_wait() does, without waiting: a later oar_dispatch() calls done_fn with what came of it.
int oar_convert_start(oar_lock *lock,
                      int mode,
                      const oar_opts *opts,
                      oar_done_fn done_fn,
                      void *arg);

// Withdraws what is under way: a request for a new lock, or a conversion that another thread may be waiting for. It
// ends with OAR_E_CANCELLED, or with success if it was granted first.
int oar_cancel(oar_lock *lock);

// Gives the lock back and waits until that is done, the value block written included. The handle is still to be freed.
int oar_unlock_wait(oar_lock *lock);

// Gives the lock back as oar_unlock_wait() does, without waiting: a later oar_dispatch() calls done_fn with what came of it.
int oar_unlock_start(oar_lock *lock,
                     oar_done_fn done_fn,
                     void *arg);

// Frees a handle, whatever its state; NULL is no error. A lock that is held is given back without waiting, a request
// under way is withdrawn. No callback of the lock comes any more, but for one that another thread is at, or about to
// call, inside its own oar_dispatch(): what its arg points to must outlive that.
void oar_lock_free(oar_lock *lock);

// The mode that is held now: OAR_NL to OAR_EX.
int oar_lock_mode(const oar_lock *lock);

// The token of this grant; zeros if there is none.
oar_token oar_lock_token(const oar_lock *lock);

// The lock's id, as lists of locks show it; 0 if it is not held.
uint64_t oar_lock_id(const oar_lock *lock);

// 1 if the second choice was granted that OAR_ALTPR or OAR_ALTCW asked for, else 0.
int oar_lock_is_alternate(const oar_lock *lock);

// 0 if the lock is held and safe, OAR_E_AT_RISK if it will soon be lost, OAR_E_LOST if it is.
int oar_lock_lost(const oar_lock *lock);

// What others want that this lock is in the way of, if there is news since the last call and no callback was told; OAR_NL
// if there is none. Does not wait.
int oar_lock_wanted(const oar_lock *lock);

// Fills *value with the resource's value block, as last read or written by this lock. OAR_E_USAGE if it was taken without
// OAR_VALBLK. Look at valid before believing the bytes.
int oar_value_get(const oar_lock *lock,
                  oar_value *value);

// Writes up to OAR_VALUE_BYTES, filled up with zeros, into the value block. They are written when the lock is given back,
// or converted down from PW or EX.
int oar_value_set(oar_lock *lock,
                  const void *value,
                  size_t length);

// Marks the value block as not to be believed, when the lock is given back or converted down from PW or EX.
int oar_value_invalidate(oar_lock *lock);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* OARLOCK_H */
