/* One client, many threads: some wait for locks, some ask and dispatch, one cancels what others wait for. The locks keep
 * them apart, and every request is told of once. */
#include <pthread.h>
#include <time.h>

#include "check.h"

enum { THREADS = 4, ROUNDS = 300 };

static long counter[2];
static int told[THREADS];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static oar_lock *shared;

static void *waits(void *arg)
{
    int i;
    (void)arg;
    for (i = 0; i < ROUNDS; ++i) {
        oar_lock *lock = take("t/0", OAR_EX, 0);
        ++counter[0];
        if (i % 3 == 0) {
            IS(oar_unlock_wait(lock), 0);
        }
        oar_lock_free(lock);
    }
    return NULL;
}

static void done(void *arg, oar_lock *lock, int rc)
{
    IS(rc, 0);
    ++counter[1];
    oar_lock_free(lock);
    pthread_mutex_lock(&mutex);
    ++*(int *)arg;
    pthread_mutex_unlock(&mutex);
}

static int all_told(int which)
{
    int count;
    pthread_mutex_lock(&mutex);
    count = told[which];
    pthread_mutex_unlock(&mutex);
    return count;
}

static void *asks(void *arg)
{
    int i, which = (int)(size_t)arg;
    for (i = 0; i < ROUNDS; ++i) {
        oar_lock *lock;
        IS(oar_lock_start(space, "t/1", 3, OAR_EX, NULL, done, NULL, &told[which], &lock), 0);
        IS(oar_dispatch(client, 0) >= 0, 1);
    }
    while (all_told(which) < ROUNDS) {
        /* Not for ever: another thread may run what this one waits for. */
        IS(oar_dispatch(client, 20) >= 0, 1);
    }
    return NULL;
}

static void wanted(void *arg, oar_lock *lock, int mode)
{
    (void)lock;
    *(int *)arg = mode;
}

static void *converts(void *arg)
{
    *(int *)arg = oar_convert_wait(shared, OAR_EX, NULL);
    return NULL;
}

int main(void)
{
    pthread_t threads[2 * THREADS];
    struct timespec moment;
    oar_lock *other, *pending;
    int i, rc = 1, heard = 0;

    open_all();
    for (i = 0; i < THREADS; ++i) {
        IS(pthread_create(&threads[i], NULL, waits, NULL), 0);
        IS(pthread_create(&threads[THREADS + i], NULL, asks, (void *)(size_t)i), 0);
    }
    for (i = 0; i < 2 * THREADS; ++i) {
        IS(pthread_join(threads[i], NULL), 0);
    }
    IS(counter[0], THREADS * ROUNDS);
    IS(counter[1], THREADS * ROUNDS);

    /* Another thread withdraws a conversion that waits. */
    shared = take("t/2", OAR_PR, 0);
    other = take("t/2", OAR_PR, 0);
    IS(pthread_create(&threads[0], NULL, converts, &rc), 0);
    moment.tv_sec = 0;
    moment.tv_nsec = 1000000;
    do {
        nanosleep(&moment, NULL);
        /* To be told while another thread is at it, from now on. */
        IS(oar_watch(shared, wanted, NULL, &heard), 0);
    } while (oar_cancel(shared) != 0);
    IS(pthread_join(threads[0], NULL), 0);
    IS(rc, OAR_E_CANCELLED);
    IS(oar_lock_mode(shared), OAR_PR);
    IS(oar_lock_start(space, "t/2", 3, OAR_EX, NULL, done, NULL, &told[0], &pending), 0);
    while (heard == 0) {
        IS(oar_dispatch(client, 10000) > 0, 1);
    }
    IS(heard, OAR_EX);
    oar_lock_free(pending);
    oar_lock_free(other);
    IS(oar_convert_wait(shared, OAR_EX, NULL), 0);
    oar_lock_free(shared);
    close_all();
    printf("all threads\n");
    return 0;
}
