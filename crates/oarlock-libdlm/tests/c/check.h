/* What the programs that try the libraries have in common. They use no more than libdlm.h has. */
#ifndef CHECK_H
#define CHECK_H

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#endif
#include <libdlm.h>
#ifdef __cplusplus
}
#endif

#ifndef DLM_LSFL_NEWEXCL
#define DLM_LSFL_NEWEXCL 8
#endif

enum { NL, CR, CW, PR, PW, EX };

/* A lock, and how often its callbacks ran. */
struct lk {
    struct dlm_lksb sb;
    char block[DLM_LVB_LEN + 1];
    const char *name;
    int asts, basts;
    /* At the last of either: in which order they came. */
    int ast_turn, bast_turn;
};

static dlm_lshandle_t ls;
static int turn;
static const char *doing = "";

static inline void check(int line, const char *what, long is, long should)
{
    if (is != should) {
        fprintf(stderr, "line %d, %s: %s is %ld, not %ld (errno %d)\n", line, doing, what, is, should, errno);
        abort();
    }
}

#define IS(value, should) check(__LINE__, #value, (long)(value), (long)(should))
#define TRUE(value) check(__LINE__, #value, (value) != 0, 1)

/* A call that fails, and how. */
#define FAILS(call, number)                \
    do {                                   \
        errno = 0;                         \
        IS(call, -1);                      \
        IS(errno, number);                 \
    } while (0)

static inline void on_ast(void *arg)
{
    struct lk *lk = (struct lk *)arg;
    lk->asts++;
    lk->ast_turn = ++turn;
}

static inline void on_bast(void *arg)
{
    struct lk *lk = (struct lk *)arg;
    lk->basts++;
    lk->bast_turn = ++turn;
}

static inline void wait_a_little(int ms)
{
    struct timespec time;
    time.tv_sec = ms / 1000;
    time.tv_nsec = ms % 1000 * 1000000L;
    nanosleep(&time, NULL);
}

static inline int readable(dlm_lshandle_t space)
{
    struct pollfd fd;
    fd.fd = dlm_ls_get_fd(space);
    fd.events = POLLIN;
    return poll(&fd, 1, 0);
}

/* Runs callbacks until there was one for this lock, or time is up. */
static inline void dispatch_until(int line, const int *count, int should)
{
    struct pollfd fd;
    int i;
    fd.fd = dlm_ls_get_fd(ls);
    fd.events = POLLIN;
    for (i = 0; *count < should && i < 200; i++) {
        poll(&fd, 1, 100);
        check(line, "dlm_dispatch", dlm_dispatch(fd.fd), 0);
    }
    check(line, "callbacks", *count, should);
}

#define UNTIL(count, should) dispatch_until(__LINE__, &(count), should)

/* Asks, with block and both callbacks. */
static inline int ask_for(struct lk *lk, const char *name, uint32_t mode, uint32_t flags)
{
    lk->name = name;
    lk->sb.sb_lvbptr = lk->block;
    return dlm_ls_lock(ls, mode, &lk->sb, flags, name, (unsigned)strlen(name), 0, on_ast, lk, on_bast, NULL);
}

/* Asks, and lets what comes of it come. */
#define ASK(lk, name, mode, flags) IS(ask_for(&(lk), name, mode, flags), 0)

/* Asks, and it is over with this status. */
#define ENDS(lk, name, mode, flags, status)    \
    do {                                       \
        int before_ = (lk).asts;               \
        ASK(lk, name, mode, flags);            \
        UNTIL((lk).asts, before_ + 1);         \
        IS((lk).sb.sb_status, status);         \
    } while (0)

#define GET(lk, name, mode, flags) ENDS(lk, name, mode, flags, 0)
#define CONVERT(lk, mode, flags) ENDS(lk, (lk).name, mode, (flags) | LKF_CONVERT, 0)

#define UNLOCK_WITH(lk, flags, status)                                      \
    do {                                                                    \
        int before_ = (lk).asts;                                            \
        IS(dlm_ls_unlock(ls, (lk).sb.sb_lkid, flags, &(lk).sb, NULL), 0);   \
        UNTIL((lk).asts, before_ + 1);                                      \
        IS((lk).sb.sb_status, status);                                      \
    } while (0)

#define UNLOCK(lk) UNLOCK_WITH(lk, 0, EUNLOCK)

/* Lets all that may come have come: some rounds to the node, then a moment, and what is there. */
static inline void settle(void)
{
    static struct lk probe;
    int i;
    for (i = 0; i < 3; i++) {
        GET(probe, "probe", NL, 0);
        UNLOCK(probe);
    }
    wait_a_little(30);
    IS(dlm_dispatch(dlm_ls_get_fd(ls)), 0);
}

/* Waits on, whatever comes. */
#define WAITS(lk)                            \
    do {                                     \
        int before_ = (lk).asts;             \
        settle();                            \
        IS((lk).asts, before_);              \
        IS((lk).sb.sb_status, EINPROG);      \
    } while (0)

/* What was asked is granted by now, or soon. */
#define COMES(lk, status)                    \
    do {                                     \
        UNTIL((lk).asts, 1);                 \
        IS((lk).asts, 1);                    \
        IS((lk).sb.sb_status, status);       \
        (lk).asts = 0;                       \
    } while (0)

static inline dlm_lshandle_t make(const char *name)
{
    dlm_lshandle_t made = dlm_create_lockspace(name, 0600);
    if (!made) {
        perror(name);
        abort();
    }
    return made;
}

#endif
