/**
 * The thread pool, as LLVM IR text: it is compiled by the same libLLVM as the kernels, so that no C compiler is needed. One native call runs a whole
 * list of steps. Workers spin for a while between runs and then sleep in the kernel; within a run they meet at a barrier after each step.
 *
 * All shared state lies in one block of memory that the driver lays out and fills (layout.ts). In C it would read:
 *
 *   void body(control* c, i64 id) {                       // every worker, the caller among them (id 0)
 *     for (i64 s = 0; s < c->count; s++) {
 *       step* p = &c->steps[s]; i32* g = &c->grids[3 * s];
 *       i64 total = (i64)g[0] * g[1] * g[2], chunk = max(total / (8 * c->threads), 1);
 *       for (i64 b; (b = fetch_add(&p->next, chunk)) < total; )
 *         for (i64 e = min(b + chunk, total); b < e; b++)
 *           p->kernel(p->args, p->symbols, b % g[0], b / g[0] % g[1], b / g[0] / g[1], c->scratch[id]);
 *       i32 phase = c->phase;
 *       if (fetch_add(&c->arrived, 1) == c->threads - 1) {  // the last one opens the barrier
 *         c->arrived = 0; p->next = 0; if (c->times) c->times[s + 1] = now(); c->phase = phase + 1;
 *       } else for (i32 n = 0; c->phase == phase; n++) n < SPIN ? pause() : sched_yield();
 *     }
 *   }
 *   void* worker(record* r) {
 *     for (i32 seen = 0; ; seen++) {
 *       for (i32 n = 0; c->generation == seen; n++)
 *         if (n < c->spin) pause(); else { c->sleepers++; futex_wait(&c->generation, seen); c->sleepers--; }
 *       if (c->stop) return 0;
 *       body(c, r->id);
 *     }
 *   }
 *   void culm_run(control* c, step* steps, i32* grids, i64 count, i64* times) {
 *     ...the fields...; if (times) times[0] = now(); c->generation++; if (c->sleepers) futex_wake(&c->generation); body(c, 0);
 *   }
 *
 * A worker may still be leaving the last barrier of one run when the next begins; it reads nothing of the control block on that way but `phase`,
 * and `phase` cannot move twice without it.
 */
import { CONTROL, RECORD, STEP } from "./layout.ts";

/** Rounds at a barrier before the processor is offered to others: about 100 us. */
const BARRIER_SPIN = 4000;
/** Chunks a worker gets of a step, on average: fine enough to even out workers that are slowed down by something else. */
const CHUNKS = 8;

export interface Platform {
  readonly os: "linux" | "darwin";
  readonly arch: "x64" | "arm64";
}

export function poolText({ os, arch }: Platform): string {
  const pause = arch === "x64" ? "call void @llvm.x86.sse2.pause()" : "call void @llvm.aarch64.hint(i32 1)";
  const futex = arch === "x64" ? 202 : 98;
  // FUTEX_WAIT and FUTEX_WAKE, private to the process. Elsewhere than on Linux a sleeping worker looks again every 50 microseconds.
  const wait =
    os === "linux"
      ? `call i64 (i64, ...) @syscall(i64 ${futex}, i32* %generation, i32 128, i32 %seen, i8* null, i8* null, i32 0)`
      : "call i32 @usleep(i32 50)";
  const wake =
    os === "linux"
      ? `call i64 (i64, ...) @syscall(i64 ${futex}, i32* %generation, i32 129, i32 2147483647, i8* null, i8* null, i32 0)`
      : "add i64 0, 0";
  const monotonic = os === "linux" ? 1 : 6;
  const field = (name: string, type: string, offset: number, base = "%c"): string =>
    `  %${name}.at = getelementptr inbounds i8, i8* ${base}, i64 ${offset}\n  %${name}.p = bitcast i8* %${name}.at to ${type}*`;
  const loaded = (name: string, type: string, offset: number, base = "%c"): string =>
    `${field(name, type, offset, base)}\n  %${name} = load ${type}, ${type}* %${name}.p, align ${type === "i32" ? 4 : 8}`;

  return `
declare i32 @sched_yield()
declare i32 @clock_gettime(i32, i8*)
declare i32 @pthread_create(i8*, i8*, i8* (i8*)*, i8*)
declare i32 @pthread_join(i64, i8*)
${os === "linux" ? "declare i64 @syscall(i64, ...)" : "declare i32 @usleep(i32)"}
${arch === "x64" ? "declare void @llvm.x86.sse2.pause()" : "declare void @llvm.aarch64.hint(i32)"}

define internal i64 @now() nounwind {
  %t = alloca [2 x i64], align 8
  %p = bitcast [2 x i64]* %t to i8*
  %r = call i32 @clock_gettime(i32 ${monotonic}, i8* %p)
  %s.p = getelementptr inbounds [2 x i64], [2 x i64]* %t, i64 0, i64 0
  %n.p = getelementptr inbounds [2 x i64], [2 x i64]* %t, i64 0, i64 1
  %s = load i64, i64* %s.p, align 8
  %n = load i64, i64* %n.p, align 8
  %ns = mul i64 %s, 1000000000
  %sum = add i64 %ns, %n
  ret i64 %sum
}

define internal void @body(i8* %c, i64 %id) nounwind {
entry:
${loaded("threads", "i64", CONTROL.threads)}
${loaded("steps", "i8*", CONTROL.steps)}
${loaded("grids", "i32*", CONTROL.grids)}
${loaded("count", "i64", CONTROL.count)}
${loaded("times", "i64*", CONTROL.times)}
${loaded("scratches", "i8**", CONTROL.scratch)}
  %scratch.p2 = getelementptr inbounds i8*, i8** %scratches, i64 %id
  %scratch = load i8*, i8** %scratch.p2, align 8
${field("arrived", "i32", CONTROL.arrived)}
${field("phase", "i32", CONTROL.phase)}
  %threads32 = trunc i64 %threads to i32
  %last = sub i32 %threads32, 1
  %parts = mul i64 %threads, ${CHUNKS}
  %any = icmp sgt i64 %count, 0
  br i1 %any, label %step, label %done

step:
  %s = phi i64 [ 0, %entry ], [ %s.next, %opened ]
  %step.at = mul i64 %s, ${STEP.bytes}
  %step.base = getelementptr inbounds i8, i8* %steps, i64 %step.at
${loaded("kernel", "void (i8*, i8*, i32, i32, i32, i8*)*", STEP.kernel, "%step.base")}
${loaded("args", "i8*", STEP.args, "%step.base")}
${loaded("symbols", "i8*", STEP.symbols, "%step.base")}
${field("next", "i64", STEP.next, "%step.base")}
  %g.at = mul i64 %s, 3
  %gx.p = getelementptr inbounds i32, i32* %grids, i64 %g.at
  %gy.p = getelementptr inbounds i32, i32* %gx.p, i64 1
  %gz.p = getelementptr inbounds i32, i32* %gx.p, i64 2
  %gx = load i32, i32* %gx.p, align 4
  %gy = load i32, i32* %gy.p, align 4
  %gz = load i32, i32* %gz.p, align 4
  %gx64 = zext i32 %gx to i64
  %gy64 = zext i32 %gy to i64
  %gz64 = zext i32 %gz to i64
  %gxy = mul i64 %gx64, %gy64
  %total = mul i64 %gxy, %gz64
  %share = udiv i64 %total, %parts
  %share.some = icmp ugt i64 %share, 1
  %chunk = select i1 %share.some, i64 %share, i64 1
  br label %claim

claim:
  %from = atomicrmw add i64* %next.p, i64 %chunk monotonic
  %mine = icmp slt i64 %from, %total
  br i1 %mine, label %blocks, label %meet

blocks:
  %end.all = add i64 %from, %chunk
  %end.over = icmp sgt i64 %end.all, %total
  %end = select i1 %end.over, i64 %total, i64 %end.all
  %bx.0 = urem i64 %from, %gx64
  %rest = udiv i64 %from, %gx64
  %by.0 = urem i64 %rest, %gy64
  %bz.0 = udiv i64 %rest, %gy64
  %bx.first = trunc i64 %bx.0 to i32
  %by.first = trunc i64 %by.0 to i32
  %bz.first = trunc i64 %bz.0 to i32
  br label %block

block:
  %b = phi i64 [ %from, %blocks ], [ %b.next, %block ]
  %bx = phi i32 [ %bx.first, %blocks ], [ %bx.next, %block ]
  %by = phi i32 [ %by.first, %blocks ], [ %by.next, %block ]
  %bz = phi i32 [ %bz.first, %blocks ], [ %bz.next, %block ]
  call void %kernel(i8* %args, i8* %symbols, i32 %bx, i32 %by, i32 %bz, i8* %scratch)
  %b.next = add i64 %b, 1
  %bx.inc = add i32 %bx, 1
  %bx.wrap = icmp eq i32 %bx.inc, %gx
  %bx.next = select i1 %bx.wrap, i32 0, i32 %bx.inc
  %bx.carry = zext i1 %bx.wrap to i32
  %by.inc = add i32 %by, %bx.carry
  %by.wrap = icmp eq i32 %by.inc, %gy
  %by.next = select i1 %by.wrap, i32 0, i32 %by.inc
  %by.carry = zext i1 %by.wrap to i32
  %bz.next = add i32 %bz, %by.carry
  %more = icmp slt i64 %b.next, %end
  br i1 %more, label %block, label %claim

meet:
  %phase.now = load atomic i32, i32* %phase.p monotonic, align 4
  %before = atomicrmw add i32* %arrived.p, i32 1 acq_rel
  %is.last = icmp eq i32 %before, %last
  br i1 %is.last, label %open, label %spin

open:
  store atomic i32 0, i32* %arrived.p monotonic, align 4
  store atomic i64 0, i64* %next.p monotonic, align 8
  %timed = icmp ne i64* %times, null
  br i1 %timed, label %stamp, label %release

stamp:
  %slot = add i64 %s, 1
  %time.p = getelementptr inbounds i64, i64* %times, i64 %slot
  %time = call i64 @now()
  store i64 %time, i64* %time.p, align 8
  br label %release

release:
  %phase.new = add i32 %phase.now, 1
  store atomic i32 %phase.new, i32* %phase.p release, align 4
  br label %opened

spin:
  %n = phi i32 [ 0, %meet ], [ %n.next, %again ]
  %phase.seen = load atomic i32, i32* %phase.p acquire, align 4
  %closed = icmp eq i32 %phase.seen, %phase.now
  br i1 %closed, label %idle, label %opened

idle:
  %n.next = add i32 %n, 1
  %patient = icmp ult i32 %n.next, ${BARRIER_SPIN}
  br i1 %patient, label %relax, label %yield

relax:
  ${pause}
  br label %again

yield:
  %yielded = call i32 @sched_yield()
  br label %again

again:
  br label %spin

opened:
  %s.next = add i64 %s, 1
  %steps.left = icmp slt i64 %s.next, %count
  br i1 %steps.left, label %step, label %done

done:
  ret void
}

define internal i8* @worker(i8* %record) nounwind {
entry:
${loaded("c", "i8*", RECORD.control, "%record")}
${loaded("id", "i64", RECORD.id, "%record")}
${loaded("patience", "i32", CONTROL.spin)}
${field("gen", "i32", CONTROL.generation)}
  %generation = getelementptr inbounds i32, i32* %gen.p, i64 0
${field("sleepers", "i32", CONTROL.sleepers)}
${field("stop", "i32", CONTROL.stop)}
  br label %wait

wait:
  %seen = phi i32 [ 0, %entry ], [ %seen.next, %work ]
  br label %look

look:
  %n = phi i32 [ 0, %wait ], [ %n.next, %relax ], [ 0, %sleep ]
  %g = load atomic i32, i32* %generation acquire, align 4
  %same = icmp eq i32 %g, %seen
  br i1 %same, label %idle, label %called

idle:
  %n.next = add i32 %n, 1
  %patient = icmp ult i32 %n.next, %patience
  br i1 %patient, label %relax, label %sleep

relax:
  ${pause}
  br label %look

sleep:
  %s.before = atomicrmw add i32* %sleepers.p, i32 1 seq_cst
  %waited = ${wait}
  %s.after = atomicrmw sub i32* %sleepers.p, i32 1 seq_cst
  br label %look

called:
  %stopping = load atomic i32, i32* %stop.p monotonic, align 4
  %over = icmp ne i32 %stopping, 0
  br i1 %over, label %end, label %work

work:
  %seen.next = add i32 %seen, 1
  call void @body(i8* %c, i64 %id)
  br label %wait

end:
  ret i8* null
}

define internal void @call_workers(i8* %c) nounwind {
${field("gen", "i32", CONTROL.generation)}
  %generation = getelementptr inbounds i32, i32* %gen.p, i64 0
${field("sleepers", "i32", CONTROL.sleepers)}
  %old = atomicrmw add i32* %generation, i32 1 seq_cst
  %asleep = load atomic i32, i32* %sleepers.p seq_cst, align 4
  %any = icmp ne i32 %asleep, 0
  br i1 %any, label %wake, label %done
wake:
  %woken = ${wake}
  br label %done
done:
  ret void
}

; Starts the workers; returns 0, or the error of pthread_create.
define i32 @culm_start(i8* %c) nounwind {
entry:
${loaded("threads", "i64", CONTROL.threads)}
${loaded("records", "i8*", CONTROL.records)}
  br label %check
check:
  %i = phi i64 [ 1, %entry ], [ %i.next, %started ]
  %more = icmp slt i64 %i, %threads
  br i1 %more, label %start, label %done
start:
  %at = mul i64 %i, ${RECORD.bytes}
  %record = getelementptr inbounds i8, i8* %records, i64 %at
  %handle = getelementptr inbounds i8, i8* %record, i64 ${RECORD.thread}
  %error = call i32 @pthread_create(i8* %handle, i8* null, i8* (i8*)* @worker, i8* %record)
  %failed = icmp ne i32 %error, 0
  br i1 %failed, label %done, label %started
started:
  %i.next = add i64 %i, 1
  br label %check
done:
  %result = phi i32 [ 0, %check ], [ %error, %start ]
  ret i32 %result
}

; Ends the workers that were started: the first %started of them, the caller included.
define void @culm_stop(i8* %c, i64 %started) nounwind {
entry:
${loaded("records", "i8*", CONTROL.records)}
${field("stop", "i32", CONTROL.stop)}
  store atomic i32 1, i32* %stop.p monotonic, align 4
  call void @call_workers(i8* %c)
  br label %check
check:
  %i = phi i64 [ 1, %entry ], [ %i.next, %join ]
  %more = icmp slt i64 %i, %started
  br i1 %more, label %join, label %done
join:
  %at = mul i64 %i, ${RECORD.bytes}
  %record = getelementptr inbounds i8, i8* %records, i64 %at
${loaded("thread", "i64", RECORD.thread, "%record")}
  %joined = call i32 @pthread_join(i64 %thread, i8* null)
  %i.next = add i64 %i, 1
  br label %check
done:
  ret void
}

; Runs %count steps. With %times, its element 0 is the time of the start and element i + 1 that of the end of step i, in nanoseconds.
define void @culm_run(i8* %c, i8* %new.steps, i32* %new.grids, i64 %new.count, i64* %new.times) nounwind {
entry:
${field("steps", "i8*", CONTROL.steps)}
${field("grids", "i32*", CONTROL.grids)}
${field("count", "i64", CONTROL.count)}
${field("times", "i64*", CONTROL.times)}
  store i8* %new.steps, i8** %steps.p, align 8
  store i32* %new.grids, i32** %grids.p, align 8
  store i64 %new.count, i64* %count.p, align 8
  store i64* %new.times, i64** %times.p, align 8
  %timed = icmp ne i64* %new.times, null
  br i1 %timed, label %stamp, label %go
stamp:
  %time = call i64 @now()
  store i64 %time, i64* %new.times, align 8
  br label %go
go:
  call void @call_workers(i8* %c)
  call void @body(i8* %c, i64 0)
  ret void
}
`;
}
