/* A libcuda.so.1 for machines without a GPU. Device memory is host memory; what is asynchronous happens as late as it may.
 *
 * - A copy runs on the stream's own thread, and only once somebody waits for it (event or stream): it reads its source then, so a
 *   slot that was overwritten or freed too early gives wrong bytes every time, not now and then.
 * - Fresh memory is filled with 0xAA, freed memory with 0xDD and never used again, so that what is read without waiting, or after
 *   the end, shows. What no honest client does (double free, a copy from or to what is not held) is counted as a violation.
 * - Two devices, a primary context each. The current context is the top of a stack of the thread's. After fakecuda_set("lost", 1) every call fails with 719.
 *
 *   gcc -shared -fPIC -pthread -o libcuda.so.1 fakecuda.c
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int R;
typedef unsigned long long P;
enum { OK = 0, INVALID = 1, NOMEM = 2, UNINIT = 3, BADDEV = 101, BADCTX = 201, NOTREADY = 600, REFUSED = 801, BADREG = 713, LOST = 719 };
enum { DEVICE, PINNED, REGISTERED, KINDS };

typedef struct Held { P at; size_t size; int kind; struct Held *next; } Held;
typedef struct Op { P dst; P src; size_t width, rows, dpitch, spitch; struct Op *next; } Op;
typedef struct Stream {
    pthread_t thread; Op *first, *last; long put, done, wanted; int ending; struct Stream *next;
} Stream;
typedef struct Event { Stream *stream; long at; } Event;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t moved = PTHREAD_COND_INITIALIZER;
static Held *held;
static Stream *streams;
static long count[KINDS], nstreams, nevents, ncopies, violations, retained, allocs;
static long lost, refuse_register, oom_after = -1, fail_copy;
static size_t total = 1ull << 32;
static int inited;
enum { DEVICES = 2, DEEPEST = 16 };
static char contexts[DEVICES];
static long calls[DEVICES]; /* with its context current */
static __thread void *stack[DEEPEST];
static __thread int depth;
static void *current(void) { return depth ? stack[depth - 1] : 0; }
#define NEED do { if (!inited) return UNINIT; if (lost) return LOST; if (!current()) return BADCTX; \
    __sync_fetch_and_add(&calls[(char *)current() - contexts], 1); } while (0)

static int inside(P at, size_t size, int kind) {
    for (Held *h = held; h; h = h->next)
        if (h->kind == kind && at >= h->at && at + size <= h->at + h->size) return 1;
    return 0;
}
static R hold(P at, size_t size, int kind) {
    Held *h = malloc(sizeof *h);
    h->at = at; h->size = size; h->kind = kind; h->next = held; held = h; count[kind]++;
    return OK;
}
static R release(P at, int kind, size_t *size) {
    for (Held **p = &held; *p; p = &(*p)->next)
        if ((*p)->at == at && (*p)->kind == kind) {
            Held *h = *p; *p = h->next; *size = h->size; free(h); count[kind]--;
            return OK;
        }
    violations++;
    return kind == REGISTERED ? BADREG : INVALID;
}
static void run(Op *op) { /* under the lock */
    for (size_t row = 0; row < op->rows; row++) {
        P dst = op->dst + row * op->dpitch, src = op->src + row * op->spitch;
        if (!inside(dst, op->width, DEVICE) || !(inside(src, op->width, PINNED) || inside(src, op->width, REGISTERED))) {
            violations++;
            continue;
        }
        memcpy((void *)dst, (void *)src, op->width);
    }
    ncopies++;
}
static void *work(void *arg) {
    Stream *s = arg;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!s->ending && !(s->first && s->done < s->wanted)) pthread_cond_wait(&moved, &lock);
        if (!s->first && s->ending) break;
        Op *op = s->first;
        s->first = op->next;
        if (!s->first) s->last = 0;
        run(op);
        free(op);
        s->done++;
        pthread_cond_broadcast(&moved);
    }
    pthread_mutex_unlock(&lock);
    return 0;
}
static R enqueue(Stream *s, Op op) {
    if (fail_copy && --fail_copy == 0) { lost = 1; return LOST; }
    Op *o = malloc(sizeof *o);
    *o = op; o->next = 0;
    if (s->last) s->last->next = o; else s->first = o;
    s->last = o; s->put++;
    return OK;
}
static R reach(Stream *s, long at) {
    if (s->wanted < at) s->wanted = at;
    pthread_cond_broadcast(&moved);
    while (s->done < at && !lost) pthread_cond_wait(&moved, &lock);
    return lost ? LOST : OK;
}
static int known(Stream *wanted) {
    for (Stream *s = streams; s; s = s->next) if (s == wanted) return 1;
    violations++;
    return 0;
}

R cuInit(unsigned f) { if (f) return INVALID; inited = 1; return OK; }
R cuDeviceGet(int *d, int n) { if (!inited) return UNINIT; if (n < 0 || n >= DEVICES) return BADDEV; *d = n; return OK; }
R cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 113 || a == 99 || a == 41; return OK; }
R cuDevicePrimaryCtxRetain(void **c, int d) { if (!inited) return UNINIT; retained++; *c = contexts + d; return OK; }
R cuCtxGetCurrent(void **c) { if (!inited) return UNINIT; *c = current(); return OK; }
R cuCtxPushCurrent_v2(void *c) {
    if (!inited) return UNINIT;
    if (lost) return LOST;
    if (!c || depth == DEEPEST) return INVALID;
    stack[depth++] = c;
    return OK;
}
R cuCtxPopCurrent_v2(void **c) {
    if (!inited) return UNINIT;
    if (!depth) { violations++; return BADCTX; }
    *c = stack[--depth];
    return OK;
}
R cuCtxSetCurrent(void *c) { /* in the place of the top */
    if (!inited) return UNINIT;
    if (depth) depth--;
    if (c) stack[depth++] = c;
    return OK;
}
R cuMemGetInfo_v2(size_t *f, size_t *t) {
    NEED;
    pthread_mutex_lock(&lock);
    *t = *f = total;
    for (Held *h = held; h; h = h->next) if (h->kind == DEVICE) *f -= h->size;
    pthread_mutex_unlock(&lock);
    return OK;
}
static R take(void **p, size_t n, size_t align, int kind) {
    NEED;
    if (!n) return INVALID;
    pthread_mutex_lock(&lock);
    R code = NOMEM;
    if ((oom_after < 0 || allocs < oom_after) && !posix_memalign(p, align, (n + 4095) / 4096 * 4096)) {
        allocs++;
        memset(*p, 0xAA, n);
        code = hold((P)*p, n, kind);
    }
    pthread_mutex_unlock(&lock);
    return code;
}
static R drop(P p, int kind) {
    NEED;
    size_t size = 0;
    pthread_mutex_lock(&lock);
    R code = release(p, kind, &size);
    if (code == OK) memset((void *)p, 0xDD, size); /* leaked on purpose: the poison must stay */
    pthread_mutex_unlock(&lock);
    return code;
}
R cuMemAlloc_v2(P *p, size_t n) { void *q = 0; R code = take(&q, n, 512, DEVICE); *p = (P)q; return code; }
R cuMemFree_v2(P p) { return drop(p, DEVICE); }
R cuMemHostAlloc(void **p, size_t n, unsigned f) { return take(p, n, 4096, PINNED); }
R cuMemFreeHost(void *p) { return drop((P)p, PINNED); }
static int owns_no_page(P at) { /* a private map of a file: a real driver has the kernel copy every page of it */
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512], mode[5];
    unsigned long low, high, inode;
    int found = 0;
    while (maps && fgets(line, sizeof line, maps))
        if (sscanf(line, "%lx-%lx %4s %*x %*s %lu", &low, &high, mode, &inode) == 4 && low <= at && at < high)
            found = inode && mode[3] == 'p';
    if (maps) fclose(maps);
    return found;
}
R cuMemHostRegister_v2(void *p, size_t n, unsigned f) {
    NEED;
    int kind = f & 8 ? REGISTERED : PINNED; /* memory of the client's own: as good as the driver's */
    if (!n || ((uintptr_t)p & 4095) || (n & 4095)) return INVALID;
    if (refuse_register && kind == REGISTERED) return REFUSED;
    int private = owns_no_page((P)p);
    pthread_mutex_lock(&lock);
    violations += private;
    R code = kind == PINNED && oom_after >= 0 && allocs++ >= oom_after ? NOMEM : hold((P)p, n, kind);
    pthread_mutex_unlock(&lock);
    return code;
}
R cuMemHostUnregister(void *p) {
    NEED;
    size_t size;
    pthread_mutex_lock(&lock);
    R code = release((P)p, inside((P)p, 1, PINNED) ? PINNED : REGISTERED, &size);
    pthread_mutex_unlock(&lock);
    return code;
}
R cuStreamCreate(Stream **out, unsigned f) {
    NEED;
    Stream *s = calloc(1, sizeof *s);
    pthread_mutex_lock(&lock);
    s->next = streams; streams = s; nstreams++;
    pthread_mutex_unlock(&lock);
    pthread_create(&s->thread, 0, work, s);
    *out = s;
    return OK;
}
R cuStreamDestroy_v2(Stream *s) {
    NEED;
    pthread_mutex_lock(&lock);
    if (!known(s)) { pthread_mutex_unlock(&lock); return INVALID; }
    s->ending = 1; s->wanted = s->put;
    pthread_cond_broadcast(&moved);
    pthread_mutex_unlock(&lock);
    pthread_join(s->thread, 0);
    pthread_mutex_lock(&lock);
    for (Stream **p = &streams; *p; p = &(*p)->next) if (*p == s) { *p = s->next; break; }
    nstreams--;
    pthread_mutex_unlock(&lock);
    return OK; /* leaked: an event may still name it */
}
R cuStreamSynchronize(Stream *s) {
    NEED;
    pthread_mutex_lock(&lock);
    R code = known(s) ? reach(s, s->put) : INVALID;
    pthread_mutex_unlock(&lock);
    return code;
}
R cuEventCreate(Event **out, unsigned f) { NEED; *out = calloc(1, sizeof **out); pthread_mutex_lock(&lock); nevents++; pthread_mutex_unlock(&lock); return OK; }
R cuEventDestroy_v2(Event *e) { NEED; pthread_mutex_lock(&lock); nevents--; pthread_mutex_unlock(&lock); free(e); return OK; }
R cuEventRecord(Event *e, Stream *s) {
    NEED;
    pthread_mutex_lock(&lock);
    R code = known(s) ? OK : INVALID;
    if (code == OK) { e->stream = s; e->at = s->put; }
    pthread_mutex_unlock(&lock);
    return code;
}
R cuEventSynchronize(Event *e) {
    NEED;
    pthread_mutex_lock(&lock);
    R code = e->stream ? reach(e->stream, e->at) : OK;
    pthread_mutex_unlock(&lock);
    return code;
}
R cuEventQuery(Event *e) {
    NEED;
    pthread_mutex_lock(&lock);
    R code = !e->stream || e->stream->done >= e->at ? OK : NOTREADY;
    pthread_mutex_unlock(&lock);
    return code;
}
R cuMemcpyHtoDAsync_v2(P d, const void *h, size_t n, Stream *s) {
    NEED;
    if (!n) return INVALID;
    pthread_mutex_lock(&lock);
    R code = known(s) ? enqueue(s, (Op){d, (P)h, n, 1, n, n, 0}) : INVALID;
    pthread_mutex_unlock(&lock);
    return code;
}
typedef struct {
    size_t sx, sy; int st; const void *sh; P sd; void *sa; size_t sp, dx, dy; int dt; void *dh; P dd; void *da; size_t dp, width, height;
} Rows;
R cuMemcpy2DAsync_v2(const Rows *r, Stream *s) {
    NEED;
    if (r->st != 1 || r->dt != 2 || r->width > r->sp || r->width > r->dp || !r->width || !r->height) return INVALID;
    pthread_mutex_lock(&lock);
    R code = known(s) ? enqueue(s, (Op){r->dd, (P)r->sh, r->width, r->height, r->dp, r->sp, 0}) : INVALID;
    pthread_mutex_unlock(&lock);
    return code;
}
R cuMemcpyDtoH_v2(void *h, P d, size_t n) {
    NEED;
    pthread_mutex_lock(&lock);
    if (!inside(d, n, DEVICE)) violations++;
    memcpy(h, (void *)d, n); /* poison, when it was freed */
    pthread_mutex_unlock(&lock);
    return OK;
}
R cuGetErrorName(R e, const char **s) {
    *s = e == INVALID ? "CUDA_ERROR_INVALID_VALUE" : e == NOMEM ? "CUDA_ERROR_OUT_OF_MEMORY" : e == UNINIT ? "CUDA_ERROR_NOT_INITIALIZED"
       : e == BADDEV ? "CUDA_ERROR_INVALID_DEVICE" : e == BADCTX ? "CUDA_ERROR_INVALID_CONTEXT" : e == LOST ? "CUDA_ERROR_LAUNCH_FAILED" : 0;
    return *s ? OK : INVALID;
}

/* For tests. */
long fakecuda_get(const char *name) {
    pthread_mutex_lock(&lock);
    long value = !strcmp(name, "device") ? count[DEVICE] : !strcmp(name, "pinned") ? count[PINNED]
        : !strcmp(name, "registered") ? count[REGISTERED] : !strcmp(name, "streams") ? nstreams : !strcmp(name, "events") ? nevents
        : !strcmp(name, "copies") ? ncopies : !strcmp(name, "violations") ? violations : !strcmp(name, "retained") ? retained
        : !strcmp(name, "allocs") ? allocs : !strcmp(name, "calls on 0") ? calls[0] : !strcmp(name, "calls on 1") ? calls[1] : -1;
    pthread_mutex_unlock(&lock);
    return value;
}
void fakecuda_set(const char *name, long value) {
    pthread_mutex_lock(&lock);
    if (!strcmp(name, "lost")) lost = value;
    if (!strcmp(name, "refuse_register")) refuse_register = value;
    if (!strcmp(name, "oom_after")) { oom_after = value; allocs = 0; }
    if (!strcmp(name, "fail_copy")) fail_copy = value;
    if (!strcmp(name, "total")) total = (size_t)value;
    if (!strcmp(name, "violations")) violations = value;
    pthread_cond_broadcast(&moved);
    pthread_mutex_unlock(&lock);
}
