/* The node ends, by whatever hand: what is held is told to be lost, what is under way fails, in callbacks and in threads that
 * wait, and nothing hangs. Says "ready" when it may end. */
#include <pthread.h>

#include "check.h"

static int lost_rc, at_risk, blocked_rc = 1, converted_rc = 1, asked_rc = 1, converted_twice_rc = 1;
static oar_lock *shared;

/* Whether it is heard that the daemon has gone, or that its locks have, depends on how it went. */
static int ended(int rc)
{
    return rc == OAR_E_LOST || rc == OAR_E_NO_DAEMON;
}

static void lost(void *arg, oar_lock *lock, int rc)
{
    (void)arg;
    if (rc == OAR_E_AT_RISK) {
        at_risk = 1;
        return;
    }
    lost_rc = rc;
    IS(oar_lock_lost(lock), OAR_E_LOST);
    IS(ended(oar_convert_wait(lock, OAR_NL, NULL)), 1);
}

static void done(void *arg, oar_lock *lock, int rc)
{
    (void)lock;
    *(int *)arg = rc;
}

static void *waits(void *arg)
{
    oar_lock *lock = NULL;
    (void)arg;
    blocked_rc = oar_lock_wait(space, "ends", 4, OAR_EX, NULL, &lock);
    return NULL;
}

static void *converts(void *arg)
{
    (void)arg;
    converted_rc = oar_convert_wait(shared, OAR_EX, NULL);
    return NULL;
}

int main(void)
{
    pthread_t threads[2];
    oar_lock *lock, *other, *pending, *late = NULL;
    oar_error error = OAR_ERROR_INIT;

    open_all();
    lock = take("ends", OAR_EX, OAR_VALBLK);
    IS(oar_watch(lock, NULL, lost, NULL), 0);
    shared = take("both", OAR_CR, 0);
    other = take("both", OAR_PR, 0);
    IS(oar_lock_start(space, "ends", 4, OAR_PR, NULL, done, NULL, &asked_rc, &pending), 0);
    IS(oar_convert_start(other, OAR_PW, NULL, done, &converted_twice_rc), 0);
    IS(oar_dispatch(client, 100) >= 0, 1);
    IS(pthread_create(&threads[0], NULL, waits, NULL), 0);
    IS(pthread_create(&threads[1], NULL, converts, NULL), 0);
    printf("ready\n");
    fflush(stdout);
    while (lost_rc == 0 || asked_rc == 1) {
        IS(oar_dispatch(client, 20000) > 0, 1);
    }
    IS(pthread_join(threads[0], NULL), 0);
    IS(pthread_join(threads[1], NULL), 0);
    IS(lost_rc, OAR_E_LOST);
    IS(ended(asked_rc), 1);
    IS(ended(blocked_rc), 1);
    IS(ended(converted_rc), 1);
    IS(ended(oar_lock_wait(space, "late", 4, OAR_EX, NULL, &late)), 1);
    IS(oar_errinfo(client, &error), 0);
    IS(ended(error.rc), 1);
    IS(oar_unlock_wait(lock), OAR_E_LOST);
    oar_lock_free(lock);
    oar_lock_free(other);
    oar_lock_free(shared);
    oar_lock_free(pending);
    close_all();
    printf("lost%s\n", at_risk ? " after a warning" : "");
    return 0;
}
