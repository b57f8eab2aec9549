/* Several threads at one lockspace: calls that wait, callbacks that take locks back and wait themselves, and an end in the middle. */
#include <pthread.h>

#include "check.h"

enum { THREADS = 4, ROUNDS = 150 };

#ifdef LIGHT
#define START(space) ((void)(space))
#else
#define START(space) IS(dlm_ls_pthread_init(space), 0)
#endif

static volatile int inside;
static int counter;

static int locked(struct lk *lk, const char *name, uint32_t mode, uint32_t flags)
{
    int rc = dlm_ls_lock_wait(ls, mode, &lk->sb, flags, name, (unsigned)strlen(name), 0, lk, NULL, NULL);
    return rc != 0 ? errno : lk->sb.sb_status;
}

static void *works(void *arg)
{
    struct lk mine;
    int i;
    (void)arg;
    memset(&mine, 0, sizeof mine);
    mine.sb.sb_lvbptr = mine.block;
    for (i = 0; i < ROUNDS; i++) {
        IS(locked(&mine, "t", NL, 0), 0);
        IS(locked(&mine, "t", EX, LKF_CONVERT | LKF_VALBLK), 0);
        IS(inside, 0);
        inside = 1;
        counter++;
        mine.block[0]++;
        inside = 0;
        if (i % 2) {
            IS(locked(&mine, "t", CR, LKF_CONVERT | LKF_VALBLK), 0);
            IS(dlm_ls_unlock_wait(ls, mine.sb.sb_lkid, 0, &mine.sb), 0);
        } else {
            IS(dlm_ls_unlock_wait(ls, mine.sb.sb_lkid, LKF_VALBLK, &mine.sb), 0);
        }
        IS(mine.sb.sb_status, EUNLOCK);
    }
    return NULL;
}

/* Callbacks of the threads' own locks, in whatever thread runs them. */
struct own {
    struct dlm_lksb sb;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int granted, gone;
};

static void gives_way(void *arg)
{
    struct own *own = (struct own *)arg;
    int rc = dlm_ls_unlock(ls, own->sb.sb_lkid, 0, &own->sb, NULL);
    TRUE(rc == 0 || errno == ENOENT);
}

static void happens(void *arg)
{
    struct own *own = (struct own *)arg;
    pthread_mutex_lock(&own->mutex);
    if (own->sb.sb_status == EUNLOCK) {
        own->gone = 1;
    } else {
        IS(own->sb.sb_status, 0);
        own->granted = 1;
    }
    pthread_cond_signal(&own->changed);
    pthread_mutex_unlock(&own->mutex);
}

static void *is_polite(void *arg)
{
    struct own own;
    int i;
    (void)arg;
    for (i = 0; i < ROUNDS / 2; i++) {
        memset(&own, 0, sizeof own);
        pthread_mutex_init(&own.mutex, NULL);
        pthread_cond_init(&own.changed, NULL);
        IS(dlm_ls_lock(ls, PR, &own.sb, 0, "polite", 6, 0, happens, &own, gives_way, NULL), 0);
#ifdef LIGHT
        while (!own.gone) {
            struct pollfd fd;
            fd.fd = dlm_ls_get_fd(ls);
            fd.events = POLLIN;
            poll(&fd, 1, 20);
            IS(dlm_dispatch(fd.fd), 0);
        }
        pthread_mutex_lock(&own.mutex);
#else
        pthread_mutex_lock(&own.mutex);
        while (!own.gone) {
            pthread_cond_wait(&own.changed, &own.mutex);
        }
#endif
        IS(own.granted, 1);
        pthread_mutex_unlock(&own.mutex);
    }
    return NULL;
}

static volatile int over;

static void *wants(void *arg)
{
    struct lk mine;
    (void)arg;
    memset(&mine, 0, sizeof mine);
    while (!over) {
        IS(locked(&mine, "polite", EX, 0), 0);
        IS(dlm_ls_unlock_wait(ls, mine.sb.sb_lkid, 0, &mine.sb), 0);
        wait_a_little(1);
    }
    return NULL;
}

/* A callback that waits. */
static struct lk inner;

static void waits(void *arg)
{
    on_ast(arg);
    IS(locked(&inner, "inner", EX, 0), 0);
    IS(dlm_ls_unlock_wait(ls, inner.sb.sb_lkid, 0, &inner.sb), 0);
    inner.asts = 1;
}

/* What a thread waits for is withdrawn by another one: the one that waits hears of it, and nothing is left of it anywhere. */
static struct lk blocked;

static void *is_withdrawn(void *arg)
{
    memset(&blocked, 0, sizeof blocked);
    IS(locked(&blocked, "withdrawn", EX, 0), *(int *)arg);
    return NULL;
}

static void withdraw(int status)
{
    pthread_t other;
    int i;
    IS(pthread_create(&other, NULL, is_withdrawn, &status), 0);
    for (i = 0; i < 1000 && blocked.sb.sb_status != EINPROG; i++) {
        wait_a_little(5);
    }
    wait_a_little(50);
    if (status == EDEADLK) {
        IS(dlm_ls_deadlock_cancel(ls, blocked.sb.sb_lkid, 0), 0);
    } else {
        IS(dlm_ls_unlock(ls, blocked.sb.sb_lkid, LKF_CANCEL, &blocked.sb, NULL), 0);
    }
    IS(pthread_join(other, NULL), 0);
    memset(&blocked, 0x5a, sizeof blocked);
    wait_a_little(20);
    IS(readable(ls), 0);
    IS(dlm_dispatch(dlm_ls_get_fd(ls)), 0);
    for (i = 0; i < (int)sizeof blocked; i++) {
        IS(((unsigned char *)&blocked)[i], 0x5a);
    }
    blocked.sb.sb_status = 0;
}

static void *is_interrupted(void *arg)
{
    struct lk mine;
    (void)arg;
    memset(&mine, 0, sizeof mine);
    IS(locked(&mine, "end", EX, 0), ENOTCONN);
    return NULL;
}

int main(void)
{
    pthread_t threads[THREADS], other;
    struct lk one;
    int i;
    ls = make("threads");
    START(ls);
    for (i = 0; i < THREADS; i++) {
        IS(pthread_create(&threads[i], NULL, works, NULL), 0);
    }
    for (i = 0; i < THREADS; i++) {
        IS(pthread_join(threads[i], NULL), 0);
    }
    IS(counter, THREADS * ROUNDS);

    IS(pthread_create(&other, NULL, wants, NULL), 0);
    IS(pthread_create(&threads[0], NULL, is_polite, NULL), 0);
    IS(pthread_join(threads[0], NULL), 0);
    over = 1;
    IS(pthread_join(other, NULL), 0);

    memset(&one, 0, sizeof one);
    IS(dlm_ls_lock(ls, EX, &one.sb, 0, "one", 3, 0, waits, &one, NULL, NULL), 0);
    for (i = 0; i < 2000 && !inner.asts; i++) {
        wait_a_little(10);
#ifdef LIGHT
        IS(dlm_dispatch(dlm_ls_get_fd(ls)), 0);
#endif
    }
    IS(inner.asts, 1);

    IS(dlm_ls_lock_wait(ls, EX, &one.sb, 0, "withdrawn", 9, 0, NULL, NULL, NULL), 0);
    withdraw(ECANCEL);
    withdraw(EDEADLK);
    IS(dlm_ls_unlock_wait(ls, one.sb.sb_lkid, 0, &one.sb), 0);

    IS(dlm_ls_lock_wait(ls, EX, &one.sb, 0, "end", 3, 0, NULL, NULL, NULL), 0);
    IS(pthread_create(&other, NULL, is_interrupted, NULL), 0);
    wait_a_little(100);
    IS(dlm_release_lockspace("threads", ls, 1), 0);
    IS(pthread_join(other, NULL), 0);
    printf("all threads\n");
    return 0;
}
