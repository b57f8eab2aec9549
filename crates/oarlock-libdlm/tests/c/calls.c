/* Every function, used as it should be and as it should not. With LIGHT for libdlm_lt, whose calls that wait return otherwise. */
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>

#include "check.h"

#ifdef LIGHT
enum { LIGHT_ONE = 1 };
#else
enum { LIGHT_ONE = 0 };
#endif

static struct lk a, b, c;

static void clean(void)
{
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    memset(&c, 0, sizeof c);
}

static void structures(void)
{
    uint32_t major = 0, minor = 0, patch = 9;
    IS(sizeof(struct dlm_lksb), 24);
    IS(offsetof(struct dlm_lksb, sb_lkid), 4);
    IS(offsetof(struct dlm_lksb, sb_flags), 8);
    IS(offsetof(struct dlm_lksb, sb_lvbptr), 16);
    IS(dlm_kernel_version(&major, &minor, &patch), 0);
    IS(major * 100 + minor * 10 + patch, 602);
    major = 0;
    dlm_library_version(&major, &minor, &patch);
    IS(major * 100 + minor * 10 + patch, 602);
}

static void nothing_is_open(void)
{
    FAILS(dlm_unlock(1, 0, &a.sb, NULL), ENOTCONN);
    FAILS(dlm_ls_lock(NULL, EX, &a.sb, 0, "x", 1, 0, on_ast, &a, NULL, NULL), ENOTCONN);
    FAILS(dlm_ls_get_fd(NULL), ENOTCONN);
    FAILS(dlm_dispatch(0), EBADF);
    FAILS(dlm_close_lockspace(NULL), EINVAL);
#ifndef LIGHT
    FAILS(unlock_resource(1), ENOTCONN);
    FAILS(dlm_ls_pthread_init(NULL), ENOTCONN);
    IS(dlm_pthread_cleanup(), 0);
#endif
}

#define NOT_MADE(call, number) \
    do {                       \
        errno = 0;             \
        TRUE((call) == NULL);  \
        IS(errno, number);     \
    } while (0)

/* 65: a lockspace is counted, and gone with the last that gives it up. */
static void lockspaces(void)
{
    char name[66];
    dlm_lshandle_t first, second, third;
    memset(name, 'n', 65);
    name[65] = 0;
    NOT_MADE(dlm_create_lockspace(name, 0600), EINVAL);
    NOT_MADE(dlm_create_lockspace("a/b", 0600), EINVAL);
    NOT_MADE(dlm_create_lockspace("", 0600), EINVAL);
    NOT_MADE(dlm_create_lockspace(NULL, 0600), EINVAL);
    NOT_MADE(dlm_open_lockspace("counted"), ENOENT);
    first = dlm_new_lockspace("counted", 0600, DLM_LSFL_NEWEXCL);
    TRUE(first != NULL);
    NOT_MADE(dlm_new_lockspace("counted", 0600, DLM_LSFL_NEWEXCL), EEXIST);
    second = dlm_new_lockspace("counted", 0600, 0);
    third = dlm_open_lockspace("counted");
    TRUE(second != NULL && third != NULL && first != second && second != third);
    IS(dlm_close_lockspace(third), 0);
    errno = EDOM;
    IS(dlm_release_lockspace("counted", first, 0), 0);
    IS(errno, EDOM);
    FAILS(dlm_ls_get_fd(first), ENOTCONN);
    third = dlm_open_lockspace("counted");
    TRUE(third != NULL);
    /* 66: locks are left in it. What is said against the release is in errno alone. */
    ls = third;
    GET(a, "left", EX, 0);
    errno = 0;
    IS(dlm_release_lockspace("counted", second, 0), 0);
    IS(errno, EBUSY);
    second = dlm_open_lockspace("counted");
    TRUE(second != NULL);
    errno = 0;
    IS(dlm_release_lockspace("counted", second, 1), 0);
    IS(errno, 0);
    NOT_MADE(dlm_open_lockspace("counted"), ENOENT);
    /* Whoever has it open still has his locks. */
    ls = third;
    UNLOCK(a);
    IS(dlm_close_lockspace(third), 0);
    IS(dlm_close_lockspace(third), 0);
}

static void arguments(void)
{
    int range;
    FAILS(dlm_ls_lock(ls, EX, &a.sb, 0, "x", 1, 0, on_ast, &a, NULL, &range), ENOSYS);
    FAILS(dlm_ls_lock(ls, EX, &a.sb, 0, "x", 1, 0, NULL, &a, NULL, NULL), EINVAL);
    FAILS(dlm_ls_lock(ls, EX, NULL, 0, "x", 1, 0, on_ast, &a, NULL, NULL), EINVAL);
    FAILS(dlm_ls_lock(ls, EX, &a.sb, 0, NULL, 1, 0, on_ast, &a, NULL, NULL), EFAULT);
    FAILS(dlm_ls_unlock(ls, 0, 0, &a.sb, NULL), EINVAL);
    FAILS(dlm_ls_unlock(ls, 12345, 0, &a.sb, NULL), ENOENT);
    FAILS(dlm_ls_unlock(ls, 12345, 0, NULL, NULL), EINVAL);
    GET(a, "x", EX, 0);
    FAILS(dlm_ls_unlock(ls, a.sb.sb_lkid, LKF_CONVERT, &a.sb, NULL), EINVAL);
    FAILS(dlm_ls_unlock(ls, a.sb.sb_lkid, LKF_CANCEL | LKF_FORCEUNLOCK, &a.sb, NULL), EINVAL);
    FAILS(dlm_ls_deadlock_cancel(ls, 0, 0), EINVAL);
    FAILS(dlm_ls_purge(ls, 77, 0), ENOSYS);
    {
        int node, here = 0;
        for (node = 0; node <= 3; node++) {
            here += dlm_ls_purge(ls, node, 1) == 0;
        }
        IS(here, 2); /* 0, and its own number. */
    }
    /* What was refused has changed nothing. */
    IS(a.sb.sb_status, 0);
    IS(dlm_ls_unlock(ls, a.sb.sb_lkid, 0, &a.sb, &b), 0);
    /* It is called with the argument of the unlock. */
    UNTIL(b.asts, 1);
    IS(a.asts, 1);
    IS(a.sb.sb_status, EUNLOCK);
    TRUE(fcntl(dlm_ls_get_fd(ls), F_GETFD) & FD_CLOEXEC);
}

/* A call that waits: what it returns, and how it left errno. */
#define WAITED(call, status, light)                            \
    do {                                                       \
        errno = EDOM;                                          \
        IS(call, LIGHT_ONE && (light) < 0 ? -1 : 0);           \
        IS(a.sb.sb_status, status);                            \
        IS(errno, LIGHT_ONE && (status) != 0 ? (status) : EDOM); \
    } while (0)

static int wait_for(struct lk *lk, uint32_t mode, uint32_t flags)
{
    lk->sb.sb_lvbptr = lk->block;
    return dlm_ls_lock_wait(ls, mode, &lk->sb, flags, "w", 1, 0, lk, NULL, NULL);
}

static void returns(void)
{
    GET(b, "w", EX, 0);
    WAITED(wait_for(&a, PR, LKF_NOQUEUE), EAGAIN, -1);
    TRUE(a.sb.sb_lkid != 0);
    UNLOCK(b);
    WAITED(wait_for(&a, PR, 0), 0, 0);
    GET(b, "w", PR, 0);
    WAITED(wait_for(&a, EX, LKF_CONVERT | LKF_NOQUEUE), EAGAIN, -1);
    UNLOCK(b);
    WAITED(wait_for(&a, EX, LKF_CONVERT), 0, 0);
    WAITED(dlm_ls_unlock_wait(ls, a.sb.sb_lkid, 0, &a.sb), EUNLOCK, 0);
    FAILS(dlm_ls_unlock_wait(ls, a.sb.sb_lkid, 0, &a.sb), ENOENT);
    FAILS(wait_for(&a, 9, 0), EINVAL);
    /* Nothing was called for it. */
    IS(a.asts, 0);
    /* Cancel of what waits already. */
    GET(b, "w", EX, 0);
    IS(ask_for(&a, "w", EX, 0), 0);
    settle();
    WAITED(dlm_ls_unlock_wait(ls, a.sb.sb_lkid, LKF_CANCEL, &a.sb), ECANCEL, -1);
    /* Whoever asked hears of it too. */
    UNTIL(a.asts, 1);
    IS(a.sb.sb_status, ECANCEL);
    IS(ask_for(&a, "w", EX, 0), 0);
    settle();
    IS(dlm_ls_deadlock_cancel(ls, a.sb.sb_lkid, 0), 0);
    UNTIL(a.asts, 2);
    IS(a.sb.sb_status, EDEADLK);
    UNLOCK(b);
}

/* Status blocks lie where programs have them, and without VALBLK nobody looks where their pointer leads. */
static void blocks_as_programs_have_them(void)
{
    char room[2 * sizeof(struct dlm_lksb)];
    struct dlm_lksb *odd = (struct dlm_lksb *)(void *)(room + 1);
    int status;
    uint32_t lkid;
    memset(room, 0xff, sizeof room);
    IS(dlm_ls_lock_wait(ls, EX, odd, 0, "odd", 3, 0, NULL, NULL, NULL), 0);
    memcpy(&status, room + 1, sizeof status);
    memcpy(&lkid, room + 5, sizeof lkid);
    IS(status, 0);
    IS(dlm_ls_unlock_wait(ls, lkid, 0, odd), 0);
    memcpy(&status, room + 1, sizeof status);
    IS(status, EUNLOCK);
}

/* The value block of an unlock is the caller's. */
static void unlock_writes(void)
{
    struct dlm_lksb plain;
    IS(wait_for(&a, EX, LKF_VALBLK), 0);
    IS(wait_for(&b, NL, 0), 0);
    strcpy(a.block, "written by unlock");
    IS(dlm_ls_unlock_wait(ls, a.sb.sb_lkid, LKF_VALBLK, &a.sb), 0);
    IS(wait_for(&c, PR, LKF_VALBLK), 0);
    IS(strcmp(c.block, "written by unlock"), 0);
    IS(dlm_ls_unlock_wait(ls, c.sb.sb_lkid, 0, &c.sb), 0);
    /* With the flag and no block, nothing is written. */
    IS(wait_for(&a, EX, 0), 0);
    memset(&plain, 0, sizeof plain);
    IS(dlm_ls_unlock_wait(ls, a.sb.sb_lkid, LKF_VALBLK, &plain), 0);
    IS(plain.sb_status, EUNLOCK);
    IS(wait_for(&c, PR, LKF_VALBLK), 0);
    IS(strcmp(c.block, "written by unlock"), 0);
    IS(c.sb.sb_flags, 0);
    IS(dlm_ls_unlock_wait(ls, c.sb.sb_lkid, 0, &c.sb), 0);
    IS(dlm_ls_unlock_wait(ls, b.sb.sb_lkid, 0, &b.sb), 0);
}

static void gives_way(void *arg)
{
    struct lk *lk = (struct lk *)arg;
    if (lk->basts++ == 0) {
        IS(dlm_ls_unlock(ls, lk->sb.sb_lkid, 0, &lk->sb, NULL), 0);
    }
}

/* While a call waits, callbacks of other locks run; and a blocking notice about its own lock does not end it. */
static void callbacks_inside_a_wait(void)
{
    int i;
    IS(dlm_ls_lock(ls, PR, &b.sb, 0, "w", 1, 0, on_ast, &b, gives_way, NULL), 0);
    UNTIL(b.asts, 1);
#ifndef LIGHT
    IS(dlm_ls_pthread_init(ls), 0);
    FAILS(dlm_ls_pthread_init(ls), EEXIST);
#endif
    IS(dlm_ls_lock_wait(ls, PR, &a.sb, 0, "w", 1, 0, &a, on_bast, NULL), 0);
    /* Both are told that they are in the way, and b goes; only then can a have what it waits for. */
    IS(dlm_ls_lock(ls, EX, &c.sb, 0, "w", 1, 0, on_ast, &c, NULL, NULL), 0);
    wait_a_little(LIGHT_ONE ? 100 : 0);
    IS(dlm_ls_lock_wait(ls, EX, &a.sb, LKF_CONVERT, "w", 1, 0, &a, on_bast, NULL), 0);
    IS(a.sb.sb_status, 0);
    /* Where a thread runs callbacks, it may still be at the one before. */
    for (i = 0; !LIGHT_ONE && i < 500 && *(volatile int *)&b.asts < 2; i++) {
        wait_a_little(10);
    }
    IS(b.sb.sb_status, EUNLOCK);
    IS(b.basts >= 1, 1);
    if (LIGHT_ONE) {
        IS(a.basts >= 1, 1);
    }
    IS(c.sb.sb_status, EINPROG);
    IS(dlm_ls_unlock_wait(ls, a.sb.sb_lkid, 0, &a.sb), 0);
    IS(dlm_ls_unlock_wait(ls, c.sb.sb_lkid, 0, &c.sb), 0);
}

static dlm_lshandle_t other_space;

static void dispatch_is_by_descriptor(void)
{
    dlm_lshandle_t mine = ls;
    struct lk *there = &b;
    GET(a, "d", NL, 0);
    a.asts = 0;
    IS(ask_for(&a, "d", PR, LKF_CONVERT), 0);
    other_space = make("another");
    TRUE(dlm_ls_get_fd(other_space) != dlm_ls_get_fd(mine));
    ls = other_space;
    ENDS(*there, "d", EX, 0, 0);
    IS(a.asts, 0);
    IS(readable(other_space), 0);
    UNLOCK(*there);
    ls = mine;
    UNTIL(a.asts, 1);
    UNLOCK(a);
    IS(dlm_release_lockspace("another", other_space, 0), 0);
    FAILS(dlm_dispatch(4711), EBADF);
}

static void default_lockspace(void)
{
    struct pollfd fd;
    IS(dlm_lock(EX, &a.sb, 0, "x", 1, 0, on_ast, &a, NULL, NULL), 0);
    fd.fd = dlm_get_fd();
    fd.events = POLLIN;
    TRUE(fd.fd >= 0);
    while (a.asts == 0) {
        IS(poll(&fd, 1, 20000), 1);
        IS(dlm_dispatch(fd.fd), 0);
    }
    IS(a.sb.sb_status, 0);
    IS(dlm_lock_wait(EX, &b.sb, LKF_NOQUEUE, "x", 1, 0, NULL, NULL, NULL), LIGHT_ONE ? -1 : 0);
    IS(b.sb.sb_status, EAGAIN);
    IS(dlm_unlock(a.sb.sb_lkid, 0, &a.sb, NULL), 0);
    while (a.asts == 1) {
        IS(poll(&fd, 1, 20000), 1);
        IS(dlm_dispatch(fd.fd), 0);
    }
    IS(dlm_lock_wait(PW, &b.sb, 0, "x", 1, 0, NULL, NULL, NULL), 0);
    IS(dlm_unlock_wait(b.sb.sb_lkid, 0, &b.sb), 0);
#ifndef LIGHT
    {
        int id = 0;
        IS(lock_resource("res", EX, 0, &id), 0);
        TRUE(id != 0);
        FAILS(lock_resource("res", EX, LKF_NOQUEUE, &id), EAGAIN);
        IS(lock_resource("res", PR, LKF_CONVERT, &id), 0);
        IS(unlock_resource(id), 0);
        FAILS(unlock_resource(id), ENOENT);
        FAILS(dlm_pthread_init(), EEXIST);
        IS(dlm_pthread_cleanup(), 0);
        FAILS(unlock_resource(id), ENOTCONN);
    }
#endif
}

/* Own locks go without a word. */
static void purged(void)
{
    GET(a, "p", EX, 0);
    GET(b, "q", PR, 0);
    a.asts = b.asts = 0;
    ASK(c, "p", EX, 0);
    IS(dlm_ls_purge(ls, 0, getpid()), 0);
    settle();
    IS(a.asts + b.asts + c.asts, 0);
    FAILS(dlm_ls_unlock(ls, a.sb.sb_lkid, 0, &a.sb, NULL), ENOENT);
    GET(c, "p", EX, LKF_NOQUEUE);
    GET(b, "q", EX, LKF_NOQUEUE);
    UNLOCK(c);
    UNLOCK(b);
}

static dlm_lshandle_t again(void)
{
    dlm_lshandle_t opened = dlm_open_lockspace("calls");
    TRUE(opened != NULL);
    return opened;
}

static int adopt(dlm_lshandle_t space, const char *name, uint32_t mode)
{
    /* As lvmlockd does: nothing comes of it, so nothing is there to be called. */
    void (*nobody)(void *) = (void (*)(void *))(uintptr_t)1;
    a.sb.sb_lvbptr = a.block;
    return dlm_ls_lockx(space, mode, &a.sb, LKF_PERSISTENT | LKF_ORPHAN | LKF_VALBLK, name, 1, 0, nobody,
        (void *)(uintptr_t)1, nobody, NULL, NULL);
}

/* 35, 37 to 40: what closes with locks held leaves the persistent ones, and an invalid block where it could have written. */
static void left_behind(void)
{
    dlm_lshandle_t mine = ls, other = again();
    int i;
    GET(c, "o", NL, 0);
    ls = other;
    GET(a, "o", EX, LKF_VALBLK);
    strcpy(a.block, "mine");
    CONVERT(a, PR, LKF_VALBLK);
    CONVERT(a, EX, LKF_VALBLK);
    IS(dlm_close_lockspace(other), 0);
    ls = mine;
    IS(readable(ls), 0);
    ENDS(b, "o", PR, LKF_VALBLK | LKF_NOQUEUE, 0);
    IS(strcmp(b.block, "mine"), 0);
    IS(b.sb.sb_flags, DLM_SBF_VALNOTVALID);
    UNLOCK(b);
    UNLOCK(c);

    /* What a closed one held is free when it is closed. */
    for (i = 0; i < 50; i++) {
        ls = other = again();
        GET(a, "e", EX, 0);
        IS(dlm_close_lockspace(other), 0);
        ls = mine;
        GET(b, "e", EX, LKF_NOQUEUE);
        UNLOCK(b);
    }

    ls = other = again();
    GET(a, "o", EX, LKF_PERSISTENT);
    GET(b, "q", PR, LKF_PERSISTENT);
    CONVERT(b, CR, 0);
    IS(dlm_close_lockspace(other), 0);
    ls = mine;
    /* The second is ordinary again: its last call did not say so. */
    GET(b, "q", EX, LKF_NOQUEUE);
    UNLOCK(b);
    ENDS(b, "o", CR, LKF_NOQUEUE, EAGAIN);
    FAILS(adopt(ls, "o", PR), EAGAIN);
    FAILS(adopt(ls, "n", EX), ENOENT);
    a.asts = 0;
    a.sb.sb_lkid = 0;
    IS(adopt(ls, "o", EX), 0);
    IS(a.sb.sb_status, 0);
    TRUE(a.sb.sb_lkid != 0);
    FAILS(adopt(ls, "o", EX), ENOENT);
    /* Somebody wants it: what it is told by is never called. */
    b.asts = 0;
    ASK(b, "o", PR, 0);
    WAITS(b);
    IS(dlm_ls_lock_wait(ls, EX, &a.sb, LKF_CONVERT | LKF_VALBLK | LKF_PERSISTENT, "o", 1, 0, &a, NULL, NULL), 0);
    IS(dlm_ls_lock_wait(ls, NL, &a.sb, LKF_CONVERT, "o", 1, 0, &a, NULL, NULL), 0);
    COMES(b, 0);
    UNLOCK(b);
    IS(dlm_ls_unlock_wait(ls, a.sb.sb_lkid, 0, &a.sb), 0);

    ls = other = again();
    GET(a, "o", PR, LKF_PERSISTENT);
    IS(dlm_close_lockspace(other), 0);
    ls = mine;
    ENDS(b, "o", EX, LKF_NOQUEUE, EAGAIN);
    IS(dlm_ls_purge(ls, 0, 1), 0);
    ENDS(b, "o", EX, LKF_NOQUEUE, EAGAIN);
    IS(dlm_ls_purge(ls, 0, 0), 0);
    GET(b, "o", EX, LKF_NOQUEUE);
    UNLOCK(b);
}

/* What lvmlockd does with a volume group's lock. */
static void as_lvmlockd(void)
{
    a.sb.sb_lvbptr = a.block;
    IS(dlm_ls_lock_wait(ls, NL, &a.sb, LKF_EXPEDITE | LKF_VALBLK, "VGLK", 4, 0, &a, NULL, NULL), 0);
    IS(dlm_ls_lock_wait(ls, EX, &a.sb, LKF_CONVERT | LKF_NOQUEUE | LKF_PERSISTENT | LKF_VALBLK, "VGLK", 4, 0, &a,
           NULL, NULL), 0);
    IS(a.sb.sb_flags, 0);
    strcpy(a.block, "version 7");
    IS(dlm_ls_lock_wait(ls, NL, &a.sb, LKF_CONVERT | LKF_VALBLK, "VGLK", 4, 0, &a, NULL, NULL), 0);
    b.sb.sb_lvbptr = b.block;
    IS(dlm_ls_lock_wait(ls, NL, &b.sb, LKF_EXPEDITE | LKF_VALBLK, "VGLK", 4, 0, &b, NULL, NULL), 0);
    IS(strcmp(b.block, "version 7"), 0);
    IS(dlm_ls_lock_wait(ls, PR, &b.sb, LKF_CONVERT | LKF_NOQUEUE | LKF_PERSISTENT | LKF_VALBLK, "VGLK", 4, 0, &b,
           NULL, NULL), 0);
    errno = 0;
    IS(dlm_ls_lock_wait(ls, EX, &a.sb, LKF_CONVERT | LKF_NOQUEUE | LKF_PERSISTENT | LKF_VALBLK, "VGLK", 4, 0, &a,
           NULL, NULL), LIGHT_ONE ? -1 : 0);
    IS(a.sb.sb_status, EAGAIN);
    IS(dlm_ls_unlock_wait(ls, b.sb.sb_lkid, 0, &b.sb), 0);
    IS(dlm_ls_unlock_wait(ls, a.sb.sb_lkid, 0, &a.sb), 0);
}

/* A fork has none of its parent's lockspaces, and may have its own. */
static void forks(void)
{
    int status, fd = dlm_ls_get_fd(ls);
    pid_t pid;
    GET(a, "f", EX, 0);
    pid = fork();
    if (pid == 0) {
        FAILS(ask_for(&b, "f", EX, 0), ENOTCONN);
        FAILS(dlm_ls_unlock(ls, a.sb.sb_lkid, 0, &a.sb, NULL), ENOTCONN);
        FAILS(dlm_dispatch(fd), EBADF);
        IS(dlm_close_lockspace(ls), 0);
        ls = again();
        ENDS(b, "f", EX, LKF_NOQUEUE, EAGAIN);
        GET(b, "g", EX, 0);
        UNLOCK(b);
        IS(dlm_close_lockspace(ls), 0);
        _exit(0);
    }
    IS(waitpid(pid, &status, 0), pid);
    IS(status, 0);
    UNLOCK(a);
}

static void (*const all[])(void) = {arguments, returns, blocks_as_programs_have_them, unlock_writes, dispatch_is_by_descriptor, purged, left_behind,
    as_lvmlockd, forks, callbacks_inside_a_wait, default_lockspace};

int main(void)
{
    unsigned i;
    sigset_t before, after;
    sigprocmask(SIG_SETMASK, NULL, &before);
    structures();
    nothing_is_open();
    doing = "lockspaces";
    lockspaces();
    ls = make("calls");
    for (i = 0; i < sizeof all / sizeof *all; i++) {
        static char number[16];
        snprintf(number, sizeof number, "part %u", i);
        doing = number;
        clean();
        all[i]();
    }
    IS(dlm_release_lockspace("calls", ls, 1), 0);
    sigprocmask(SIG_SETMASK, NULL, &after);
    IS(memcmp(&before, &after, sizeof before), 0);
    printf("all calls\n");
    return 0;
}
